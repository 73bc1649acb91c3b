package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module       = "cllm"
	ollamaModule = "github.com/ollama/ollama"
	gin          = "github.com/gin-gonic/gin"
)

// layer is a package and the packages of ours that it may import.
type layer struct {
	may []string
	// tests are packages that its tests may import besides those and itself.
	tests []string
	why   string
}

// layers draws the arrows: none goes up or sideways. A package without a row, or
// one that imports what its row does not hold, fails the test with the reason.
var layers = map[string]layer{
	"cmd/cllm": {
		may:   []string{"cmd/cllm/bench", "daemon", "daemon/llamaloader", "modelstore/demo"},
		tests: []string{"llm/llmtest", "llm/llmtest/tinymodel", "modelstore/demo/demotest", "modelstore/modelstoretest"},
		why:   "serve starts the daemon and gives it the demo model, every other command speaks HTTP to it; what lies below is the daemon's",
	},
	"cmd/cllm/bench": {
		why: "it measures servers over HTTP from outside, whoever wrote them",
	},
	"daemon": {
		may:   []string{"daemon/prompt", "llm", "llm/gbnf", "modelstore", "scheduler"},
		tests: []string{"llm/llmtest", "llm/llmtest/tinymodel", "modelstore/modelstoretest"},
		why:   "it joins store, prompts and scheduler; the engine comes through its Loader, so that it builds without C++",
	},
	"daemon/llamaloader": {
		may:   []string{"daemon", "llm", "llm/llama"},
		tests: []string{"llm/llmtest", "llm/llmtest/tinymodel", "modelstore", "modelstore/demo/demotest", "modelstore/gguf", "scheduler"},
		why:   "it only fits llama.cpp to the daemon's Loader",
	},
	"daemon/prompt": {
		why: "it turns messages into text and back; tokens, models and requests are the daemon's",
	},
	"scheduler": {
		may:   []string{"llm"},
		tests: []string{"llm/gbnf", "llm/llmtest"},
		why:   "it plans rows over any engine; it knows no HTTP, no llama.cpp and no Ollama",
	},
	"llm": {
		tests: []string{"llm/llmtest"},
		why:   "it is the vocabulary that the others share and stands below them all",
	},
	"llm/gbnf": {
		may:   []string{"llm"},
		tests: []string{"llm/llmtest"},
		why:   "a grammar needs to know what pieces tokens are, whatever engine picks them",
	},
	"llm/llama": {
		may:   []string{"llm"},
		tests: []string{"llm/gbnf", "llm/llmtest", "llm/llmtest/tinymodel"},
		why:   "a binding knows its library and the interfaces it implements",
	},
	"llm/llmtest": {
		may:   []string{"llm"},
		tests: []string{"llm/llmtest/tinymodel"},
		why:   "the fake engine and the suite for all engines need the interfaces only",
	},
	"llm/llmtest/tinymodel": {
		why: "it writes model files; who loads them is not its business",
	},
	"modelstore": {
		may:   []string{"modelstore/gguf", "modelstore/safetensors"},
		tests: []string{"llm/llmtest/tinymodel", "modelstore/modelstoretest"},
		why:   "the model folder is files and names; it knows no engine and no requests",
	},
	"modelstore/demo": {
		may:   []string{"modelstore"},
		tests: []string{"modelstore/demo/demotest"},
		why:   "it brings one model into a store as any client of the store would",
	},
	"modelstore/demo/demotest": {
		why: "it reads the texts that the demo model is made of and measured with",
	},
	"modelstore/gguf": {
		why: "it reads a file's header",
	},
	"modelstore/safetensors": {
		tests: []string{"llm/llmtest/tinymodel"},
		why:   "it makes a file of files; where they lie is the store's business",
	},
	"modelstore/modelstoretest": {
		may: []string{"modelstore"},
		why: "it plays the registry that the store pulls from",
	},
}

// ban keeps packages out of everything that some packages are linked with.
type ban struct {
	from []string // packages of ours; nil means all
	to   []string // import paths; what lies below them is meant as well
	why  string
}

var bans = []ban{
	{
		to: []string{
			ollamaModule + "/server", ollamaModule + "/llm", ollamaModule + "/llama", ollamaModule + "/runner",
			ollamaModule + "/cmd", ollamaModule + "/discover", ollamaModule + "/sample", ollamaModule + "/ml/backend",
		},
		why: "it brings Ollama's own engine, whose C++ is neither in its module archive nor wanted here",
	},
	{
		from: []string{"scheduler", "llm", "llm/gbnf", "llm/llama", "llm/llmtest"},
		to:   []string{"net/http", gin},
		why:  "HTTP ends in the daemon; below it a request is a value and a stream",
	},
	{
		from: []string{"scheduler", "llm", "llm/gbnf", "llm/llama", "llm/llmtest"},
		to:   []string{ollamaModule},
		why:  "Ollama's types end in the daemon, so that its releases touch no scheduling",
	},
	{
		from: []string{"daemon", "daemon/prompt", "modelstore", "modelstore/demo", "modelstore/gguf", "modelstore/safetensors", "scheduler", "llm", "llm/gbnf", "llm/llmtest"},
		to:   []string{module + "/llm/llama"},
		why:  "only daemon/llamaloader links C++, so that the rest is tested under the race detector",
	},
	{
		from: []string{"modelstore", "modelstore/demo", "modelstore/gguf", "modelstore/safetensors"},
		to:   []string{module + "/daemon", module + "/scheduler", module + "/llm"},
		why:  "the store serves commands and daemons that load no model",
	},
	{
		from: []string{"cmd/cllm", "daemon", "daemon/llamaloader", "daemon/prompt", "scheduler", "llm", "llm/llama", "modelstore", "modelstore/demo"},
		to:   []string{module + "/llm/llmtest", module + "/modelstore/demo/demotest", module + "/modelstore/modelstoretest", "testing"},
		why:  "doubles and fixtures have no place in the binary",
	},
}

// cgoIn is the only package of ours with C in it.
const (
	cgoIn  = "llm/llama"
	cgoWhy = "C stays behind one binding: everything else builds without a C compiler"
)

// pkg is a package as go list describes it.
type pkg struct {
	ImportPath, Dir                    string
	Imports, TestImports, XTestImports []string
	CgoFiles                           []string
}

// violations checks a graph, which holds our packages and all they depend on, and
// returns a sentence for every broken rule.
func violations(graph []pkg) []string {
	byPath := map[string]pkg{}
	for _, p := range graph {
		byPath[p.ImportPath] = p
	}
	var found []string
	for _, p := range graph {
		name, ours := strings.CutPrefix(p.ImportPath, module+"/")
		if !ours {
			continue
		}
		found = append(found, wrongArrows(name, p)...)
		if len(p.CgoFiles) > 0 && name != cgoIn {
			found = append(found, fmt.Sprintf("%s has C in %v: %s", name, p.CgoFiles, cgoWhy))
		}
		for _, b := range bans {
			if b.from != nil && !slices.Contains(b.from, name) {
				continue
			}
			if way := wayTo(byPath, p.ImportPath, b.to); way != nil {
				found = append(found, fmt.Sprintf("%s: %s", strings.Join(way, " → "), b.why))
			}
			for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
				if b.from == nil && within(path, b.to) {
					found = append(found, fmt.Sprintf("a test of %s → %s: %s", name, path, b.why))
				}
			}
		}
	}
	return found
}

// wrongArrows compares the imports of one package of ours with its row.
func wrongArrows(name string, p pkg) (found []string) {
	row, known := layers[name]
	if strings.HasPrefix(name, "scripts/") {
		// A script may use all of ours but the command, and nothing may use it:
		// no row names it.
		known = true
		for path := range layers {
			if path != "cmd/cllm" {
				row.may = append(row.may, path)
			}
		}
		row.why = "scripts are tools beside the program"
	}
	if !known {
		return []string{name + " has no row in layers_test.go: say there what it may import, and why"}
	}
	for _, path := range p.Imports {
		to, ours := strings.CutPrefix(path, module+"/")
		if ours && !slices.Contains(row.may, to) {
			found = append(found, fmt.Sprintf("%s → %s: %s", name, to, row.why))
		}
	}
	for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
		to, ours := strings.CutPrefix(path, module+"/")
		if ours && to != name && !slices.Contains(row.may, to) && !slices.Contains(row.tests, to) {
			found = append(found, fmt.Sprintf("a test of %s → %s: %s", name, to, row.why))
		}
	}
	return found
}

// wayTo returns the shortest chain of imports from a package into one of the
// banned, nil if there is none.
func wayTo(byPath map[string]pkg, from string, banned []string) []string {
	cameFrom := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at != from && within(at, banned) {
			way := []string{at}
			for at = cameFrom[at]; at != ""; at = cameFrom[at] {
				way = append(way, at)
			}
			slices.Reverse(way)
			return way
		}
		for _, next := range byPath[at].Imports {
			if _, seen := cameFrom[next]; !seen {
				cameFrom[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// within tells whether path is one of roots or lies below one.
func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

// listPackages asks the go command for our packages and all they depend on.
func listPackages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps",
		"-json=ImportPath,Dir,Imports,TestImports,XTestImports,CgoFiles", module+"/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1") // without it, files with C are left out
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.String())
	}
	var graph []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return graph
		} else if err != nil {
			t.Fatal(err)
		}
		if within(p.ImportPath, []string{module + "/tmp"}) {
			continue // what lies there is not in git
		}
		graph = append(graph, p)
		if !within(p.ImportPath, []string{module}) {
			continue
		}
		// Reading the folder tells go test what this result depends on, so that it
		// does not take an old one from its cache.
		if _, err := os.ReadDir(p.Dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoImportGoesUpOrSideways(t *testing.T) {
	graph := listPackages(t)
	for _, path := range []string{module + "/cmd/cllm", module + "/" + cgoIn, "net/http", ollamaModule + "/api"} {
		if !slices.ContainsFunc(graph, func(p pkg) bool { return p.ImportPath == path }) {
			t.Errorf("%s is not in the graph: nothing is checked", path)
		}
	}
	for _, broken := range violations(graph) {
		t.Error(broken)
	}
}

func TestEveryRuleFindsItsPlantedDefect(t *testing.T) {
	imports := func(from string, to ...string) pkg { return pkg{ImportPath: from, Imports: to} }
	tests := map[string]struct {
		graph []pkg
		want  []string
	}{
		"the drawing itself": {[]pkg{
			imports(module+"/cmd/cllm", module+"/daemon", module+"/daemon/llamaloader", "fmt"),
			imports(module+"/daemon", module+"/scheduler", module+"/modelstore", module+"/daemon/prompt", "net/http"),
			imports(module+"/daemon/llamaloader", module+"/daemon", module+"/llm/llama"),
			imports(module+"/scheduler", module+"/llm"),
			{ImportPath: module + "/llm/llama", Imports: []string{module + "/llm", "C"}, CgoFiles: []string{"llama.go"}},
			{ImportPath: module + "/llm", XTestImports: []string{module + "/llm", module + "/llm/llmtest"}},
			imports(module+"/scripts/tool", module+"/llm/llmtest/tinymodel", module+"/llm/llama"),
			imports("example.com/theirs", ollamaModule+"/llm"),
		}, nil},
		"upwards": {
			[]pkg{imports(module+"/scheduler", module+"/daemon")},
			[]string{"scheduler → daemon: " + layers["scheduler"].why},
		},
		"sideways": {
			[]pkg{imports(module+"/modelstore", module+"/llm")},
			[]string{
				"modelstore → llm: " + layers["modelstore"].why,
				module + "/modelstore → " + module + "/llm: " + bans[4].why,
			},
		},
		"past the daemon": {
			[]pkg{imports(module+"/cmd/cllm", module+"/scheduler")},
			[]string{"cmd/cllm → scheduler: " + layers["cmd/cllm"].why},
		},
		"to a script": {
			[]pkg{imports(module+"/daemon", module+"/scripts/tool")},
			[]string{"daemon → scripts/tool: " + layers["daemon"].why},
		},
		"from a test": {
			[]pkg{{ImportPath: module + "/llm", TestImports: []string{module + "/scheduler"}}},
			[]string{"a test of llm → scheduler: " + layers["llm"].why},
		},
		"a package without a row": {
			[]pkg{imports(module + "/extra")},
			[]string{"extra has no row in layers_test.go: say there what it may import, and why"},
		},
		"C elsewhere": {
			[]pkg{{ImportPath: module + "/scheduler", CgoFiles: []string{"fast.go"}}},
			[]string{"scheduler has C in [fast.go]: " + cgoWhy},
		},
		"Ollama's engine": {
			[]pkg{imports(module+"/daemon", "example.com/between"), imports("example.com/between", ollamaModule+"/llama/llama.cpp")},
			[]string{module + "/daemon → example.com/between → " + ollamaModule + "/llama/llama.cpp: " + bans[0].why},
		},
		"Ollama's engine in a test": {
			[]pkg{{ImportPath: module + "/daemon", XTestImports: []string{ollamaModule + "/server"}}},
			[]string{"a test of daemon → " + ollamaModule + "/server: " + bans[0].why},
		},
		"HTTP below the daemon": {
			[]pkg{imports(module+"/scheduler", "expvar"), imports("expvar", "net/http")},
			[]string{module + "/scheduler → expvar → net/http: " + bans[1].why},
		},
		"gin below the daemon": {
			[]pkg{imports(module+"/llm", gin)},
			[]string{module + "/llm → " + gin + ": " + bans[1].why},
		},
		"Ollama below the daemon": {
			[]pkg{imports(module+"/scheduler", ollamaModule+"/api")},
			[]string{module + "/scheduler → " + ollamaModule + "/api: " + bans[2].why},
		},
		"C++ in the daemon": {
			[]pkg{imports(module+"/daemon", module+"/llm/llama")},
			[]string{"daemon → llm/llama: " + layers["daemon"].why, module + "/daemon → " + module + "/llm/llama: " + bans[3].why},
		},
		"a fixture in the binary": {
			[]pkg{imports(module+"/daemon", module+"/llm/llmtest")},
			[]string{"daemon → llm/llmtest: " + layers["daemon"].why, module + "/daemon → " + module + "/llm/llmtest: " + bans[5].why},
		},
		"names that only begin alike": {
			[]pkg{imports(module+"/daemon", ollamaModule+"/llmx", ollamaModule+"/serverless")},
			nil,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { wantEqual(t, "violations", violations(test.graph), test.want) })
	}
}
