package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/parser"
)

func digestOf(data string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(data))) }

// writeFiles fills a new folder.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var created = streams(
	`{"status":"parsing GGUF"}`,
	`{"status":"quantizing F16 model to Q4_K_M","digest":"0000000000000000000","total":10,"completed":10}`,
	`{"status":"creating new layer sha256:abc"}`, `{"status":"writing manifest"}`, `{"status":"success"}`,
)

func TestCreateUploadsTheFilesOfTheModelfileByDigest(t *testing.T) {
	const weights, adapter = "GGUF weights", "GGUF adapter"
	dir := writeFiles(t, map[string]string{
		"models/w.gguf": weights, "lora.gguf": adapter,
		"Modelfile": "FROM ./models/w.gguf\nADAPTER lora.gguf\nSYSTEM \"\"\"be\nterse\"\"\"\nTEMPLATE {{ .Prompt }}\n" +
			"PARAMETER temperature 0.5\nPARAMETER stop a\nPARAMETER stop b\nLICENSE MIT\nMESSAGE user hi\nMESSAGE assistant hello\n",
	})
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/blobs/" + digestOf(weights): fails(201, ""),
		"POST /api/blobs/" + digestOf(adapter): fails(200, ""),
		"POST /api/create":                     created,
	})
	got := cllm("", "create", "mine", "-f", filepath.Join(dir, "Modelfile"), "-q", "q4_K_M")
	lines := slices.Collect(strings.Lines(got.Err))
	if len(lines) == 8 {
		slices.Sort(lines[1:3]) // the two uploads run side by side
	}
	want := []string{
		"gathering model components\n",
		"copying file " + digestOf(adapter)[7:19] + " 100%\n", "copying file " + digestOf(weights)[7:19] + " 100%\n",
		"parsing GGUF\n", "quantizing F16 model to Q4_K_M 100%\n", "creating new layer sha256:abc\n", "writing manifest\n", "success\n",
	}
	slices.Sort(want[1:3])
	if diff := cmp.Diff(want, lines); diff != "" || got.Code != 0 || got.Out != "" {
		t.Errorf("code %d, output %q, lines (-want +got):\n%s", got.Code, got.Out, diff)
	}
	for data, blob := range map[string]string{weights: "POST /api/blobs/" + digestOf(weights), adapter: "POST /api/blobs/" + digestOf(adapter)} {
		if bodies := d.asked(blob); len(bodies) != 1 || bodies[0] != data {
			t.Errorf("%s got %q", blob, bodies)
		}
	}
	d.wantJSON("POST /api/create", fmt.Sprintf(`{"model":"mine","name":"","quantize":"q4_K_M",
		"files":{"w.gguf":%q},"adapters":{"lora.gguf":%q},"system":"be\nterse","template":"{{ .Prompt }}",
		"parameters":{"temperature":0.5,"stop":["a","b"]},"license":["MIT"],
		"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}`, digestOf(weights), digestOf(adapter)))
}

func TestCreateFromAnExistingModelUploadsNothing(t *testing.T) {
	dir := writeFiles(t, map[string]string{"Modelfile": "FROM qwen3:0.6b\nSYSTEM hi\n"})
	t.Chdir(dir)
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/create": streams(`{"status":"success"}`)})
	wantResult(t, cllm("", "create", "mine"), result{Err: "gathering model components\nsuccess\n"})
	d.wantJSON("POST /api/create", `{"model":"mine","name":"","from":"qwen3:0.6b","system":"hi"}`)
}

func TestCreateWithoutModelfileTakesTheModelInTheFolder(t *testing.T) {
	const weights = "\x01\x02GGUF?"
	t.Chdir(writeFiles(t, map[string]string{"w.gguf": weights}))
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/blobs/" + digestOf(weights): fails(201, ""), "POST /api/create": streams(`{"status":"success"}`),
	})
	if got := cllm("", "create", "mine"); got.Code != 0 {
		t.Fatalf("got %+v", got)
	}
	d.wantJSON("POST /api/create", fmt.Sprintf(`{"model":"mine","name":"","files":{"w.gguf":%q}}`, digestOf(weights)))
}

func TestCreateKeepsFilesOfOneNameApart(t *testing.T) {
	got := sentNames(map[string]string{"/m/config.json": "A", "/m/1_Pooling/config.json": "B", "/m/sub/tokenizer.model": "C"})
	want := map[string]string{"config.json": "A", "1_Pooling/config.json": "B", "tokenizer.model": "C"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestCreateFailsBeforeItAsksForWhatCannotBe(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"bad": "FORM ./x\n", "nofrom": "SYSTEM hi\n", "missing": "FROM ./no/such.gguf\n", "adapter": "FROM m\nADAPTER ./no.gguf\n",
		"parameter": "FROM m\nPARAMETER top_k many\n", "empty/x.txt": "",
	})
	tests := map[string]struct {
		model, file, want string
	}{
		"no such Modelfile":  {"m", "nope", "specified Modelfile wasn't found: " + dir + "/nope"},
		"bad name":           {"a/b/c/d/e", "bad", "invalid model name: a/b/c/d/e"},
		"does not parse":     {"m", "bad", `(line 1): command must be one of "from", "license", "template", "system", "adapter", "renderer", "parser", "parameter", "message", or "requires"`},
		"no FROM":            {"m", "nofrom", "no FROM line"},
		"missing weights":    {"m", "missing", "FROM ./no/such.gguf: no such file or folder (relative to " + dir + ")"},
		"missing adapter":    {"m", "adapter", "stat " + dir + "/no.gguf: no such file or directory"},
		"bad parameter":      {"m", "parameter", "invalid int value [many]"},
		"a folder as a file": {"m", "empty", "read " + dir + "/empty: is a directory"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			newDaemon(t, nil)
			got := cllm("", "create", test.model, "-f", filepath.Join(dir, test.file))
			got.Err = strings.TrimPrefix(got.Err, "gathering model components\n")
			wantResult(t, got, result{Err: "Error: " + test.want + "\n", Code: 1})
		})
	}
	t.Run("nothing in the folder", func(t *testing.T) {
		newDaemon(t, nil)
		t.Chdir(filepath.Join(dir, "empty"))
		wantResult(t, cllm("", "create", "m"), result{
			Err: "gathering model components\nError: no Modelfile or safetensors files found\n", Code: 1,
		})
	})
}

func TestCreateFailsWithTheDaemonsText(t *testing.T) {
	const weights = "weights"
	dir := writeFiles(t, map[string]string{"w.gguf": weights, "Modelfile": "FROM w.gguf\n"})
	blob := "POST /api/blobs/" + digestOf(weights)
	digest := digestOf(weights)[7:19]
	mismatch, err := json.Marshal(map[string]string{"error": `digest mismatch, expected "a", got "b"`})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		blob, create http.HandlerFunc
		want         string
	}{
		"upload refused": {fails(400, string(mismatch)), nil, "Error: copying " + dir + "/w.gguf to the server: digest mismatch, expected \"a\", got \"b\"\n"},
		"old server":     {says(""), fails(400, `{"error":"path or Modelfile are required"}`), "Error: the ollama server must be updated to use `cllm create` with this client\n"},
		"in the middle":  {says(""), streams(`{"status":"parsing GGUF"}`, `{"error":"invalid file magic"}`), "parsing GGUF\nError: invalid file magic\n"},
		"cut off":        {says(""), streams(`{"status":"parsing GGUF"}`), "parsing GGUF\nError: the connection to the server was lost before it reported success; try again\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			newDaemon(t, map[string]http.HandlerFunc{blob: test.blob, "POST /api/create": test.create})
			got := cllm("", "create", "m", "-f", filepath.Join(dir, "Modelfile"))
			_, tail, _ := strings.Cut(got.Err, "gathering model components\n")
			tail = strings.TrimPrefix(tail, "copying file "+digest+" 100%\n")
			wantResult(t, result{got.Out, tail, got.Code}, result{Err: test.want, Code: 1})
		})
	}
}

// Whatever a Modelfile holds, it makes a request that can be sent, or an error. The
// files that it names are those of its folder.
func FuzzModelfiles(f *testing.F) {
	for _, text := range []string{
		"", "FROM x", "FROM w.gguf\nADAPTER w.gguf", "FROM .", "from\tx\r\nparameter  stop \"a b\"\nPARAMETER num_ctx x",
		"FROM x\nSYSTEM \"\"\"be\nterse\"\"\"\nTEMPLATE {{ .Prompt", "FROM x\nMESSAGE user hi\nMESSAGE robot hi\nMESSAGE user", "# c\nFROM x # d\nLICENSE a\nLICENSE b",
		"FROM x\nRENDERER a\nPARSER b\nREQUIRES 0.14.0", "FROM \"\"\"x", "\xff\xfeF\x00R\x00O\x00M\x00 \x00x\x00", "FROM x\nPARAMETER stop a\nPARAMETER stop", "FROM *.gguf",
	} {
		f.Add(text)
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "w.gguf"), []byte("GGUF weights"), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "/~\\") || strings.Contains(text, "..") {
			t.Skip("a path may lead to a file without an end")
		}
		modelfile, err := parser.ParseFile(strings.NewReader(text))
		if err != nil {
			return
		}
		req, err := components(t.Context(), modelfile, dir)
		if err != nil {
			return
		}
		if _, err := json.Marshal(req); err != nil {
			t.Errorf("%q can't be sent: %v", text, err)
		}
		for _, files := range []map[string]string{req.Files, req.Adapters} {
			for path, digest := range files {
				if filepath.Dir(path) != dir || digest != digestOf("GGUF weights") {
					t.Errorf("%q uploads %s as %s", text, path, digest)
				}
			}
			if len(sentNames(files)) != len(files) {
				t.Errorf("%q: of %v only %v are sent", text, files, sentNames(files))
			}
		}
	})
}

func TestCreateUploadsFoldersOfModelsAndAdapters(t *testing.T) {
	const weights, more, config, lora, about = "\x01weights", "\x02weights", `{"a":1}`, "\x03lora", `{"r":1}`
	dir := writeFiles(t, map[string]string{
		"base/model-00001-of-00002.safetensors": weights, "base/model-00002-of-00002.safetensors": more, "base/config.json": config,
		"lora/adapter_model.safetensors": lora, "lora/adapter_config.json": about, "lora/README.md": "not sent",
		"Modelfile": "FROM ./base\nADAPTER ./lora\n",
	})
	routes := map[string]http.HandlerFunc{"POST /api/create": created}
	for _, content := range []string{weights, more, config, lora, about} {
		routes["POST /api/blobs/"+digestOf(content)] = fails(201, "")
	}
	d := newDaemon(t, routes)
	got := cllm("", "create", "mine", "-f", filepath.Join(dir, "Modelfile"))
	if got.Code != 0 {
		t.Fatalf("%+v", got)
	}
	var req struct{ Files, Adapters map[string]string }
	if err := json.Unmarshal([]byte(d.asked("POST /api/create")[0]), &req); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"model-00001-of-00002.safetensors": digestOf(weights), "model-00002-of-00002.safetensors": digestOf(more), "config.json": digestOf(config),
	}
	adapters := map[string]string{"adapter_model.safetensors": digestOf(lora), "adapter_config.json": digestOf(about)}
	if diff := cmp.Diff(files, req.Files) + cmp.Diff(adapters, req.Adapters); diff != "" {
		t.Error(diff)
	}
}
