package daemon

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// aliasFile is a server.json in a folder of the test's own.
func aliasFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ollama", "server.json")
	if content != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestAliasesLeadToTheirTargets(t *testing.T) {
	a := newAliases("")
	for _, one := range []alias{
		{Alias: "gpt-4", Target: "qwen3:0.6b"},
		{Alias: "best", Target: "GPT-4:latest"},
		{Alias: "gpt-", Target: "llama3", Prefix: true},
		{Alias: "gpt-3.5", Target: "best", Prefix: true},
	} {
		if err := a.set(one); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"gpt-4":        "qwen3:0.6b",
		"GPT-4:latest": "qwen3:0.6b",
		"best":         "qwen3:0.6b",
		"gpt-5":        "llama3",
		"GPT-5:x":      "llama3",
		"gpt-3.5-mini": "qwen3:0.6b",
		"other":        "",
		"":             "",
		"no name/":     "",
	} {
		if got, err := a.target(name); err != nil || got != want {
			t.Errorf("%q leads to %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestAnAliasCantLeadToItself(t *testing.T) {
	a := newAliases("")
	for _, one := range []alias{{Alias: "a", Target: "b"}, {Alias: "b", Target: "c"}} {
		if err := a.set(one); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.set(alias{Alias: "c", Target: "a"}); !errors.Is(err, errAliasCycle) {
		t.Errorf("a cycle of three: %v", err)
	}
	if got, err := a.target("a"); got != "c" || err != nil {
		t.Errorf("after the refusal a leads to %q, %v", got, err)
	}
	if _, err := (alias{Alias: "x:latest", Target: "X"}).checked(); err == nil || err.Error() != "alias cannot point to itself" {
		t.Errorf("itself: %v", err)
	}
}

func TestAliasesOutliveTheDaemonAndLeaveTheRestOfTheFile(t *testing.T) {
	path := aliasFile(t, `{"disable_ollama_cloud": true, "version": 1, "aliases": [{"alias":"old","target":"plain"}, {"alias":"-","target":"?"}]}`)
	first := newAliases(path)
	if err := first.set(alias{Alias: "new-", Target: "plain", Prefix: true}); err != nil {
		t.Fatal(err)
	}
	if found, err := first.remove("OLD"); !found || err != nil {
		t.Fatal(found, err)
	}
	got, err := newAliases(path).list()
	if diff := cmp.Diff([]alias{{Alias: "new-", Target: "plain", Prefix: true}}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept struct {
		Off     bool `json:"disable_ollama_cloud"`
		Version int
	}
	if err := json.Unmarshal(data, &kept); err != nil || !kept.Off || kept.Version != 1 {
		t.Errorf("%v: %s", err, data)
	}
	rest, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(rest) != 1 {
		t.Errorf("beside the file there is %v, %v", rest, err)
	}
}

func TestAFileOfAliasesThatCantBeReadStaysAsItIs(t *testing.T) {
	for _, content := range []string{`{`, `{"version":2}`, `{"version":"1"}`, `{"aliases":{}}`} {
		path := aliasFile(t, content)
		a := newAliases(path)
		if err := a.set(alias{Alias: "a", Target: "b"}); err == nil || !strings.Contains(err.Error(), "correct or remove the file") {
			t.Errorf("%s: set: %v", content, err)
		}
		if _, err := a.remove("a"); err == nil {
			t.Errorf("%s: removed", content)
		}
		if got, err := a.target("a"); got != "" || err != nil {
			t.Errorf("%s: target %q, %v", content, got, err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != content {
			t.Errorf("%s became %s, %v", content, data, err)
		}
	}
}

func TestAnAliasThatCantBeKeptIsNotThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	a := newAliases("")
	a.path = filepath.Join(dir, "file", "server.json")
	if err := a.set(alias{Alias: "a", Target: "b"}); err == nil {
		t.Error("set without a folder")
	}
	if got, _ := a.target("a"); got != "" {
		t.Errorf("a leads to %q", got)
	}
}

func TestModelsAnswerToTheirAliases(t *testing.T) {
	a := serveFake(t, always("yes"))
	for _, body := range []string{
		`{"alias":"gpt-4","target":"plain"}`,
		`{"alias":"plain-","target":"plain","prefix_matching":true}`,
		`{"alias":"lost","target":"nowhere"}`,
	} {
		if r := a.post("/api/experimental/aliases", body); r.status != 200 {
			t.Fatal(r.status, r.body)
		}
	}
	for _, name := range []string{"gpt-4", "GPT-4:latest", "plain-b"} {
		for path, rest := range map[string]string{"/api/chat": `"messages":[{"role":"user","content":"x"}]`, "/api/generate": `"prompt":"x"`} {
			r := a.post(path, `{"stream":false,"model":"`+name+`",`+rest+`}`)
			if r.status != 200 || !strings.Contains(r.body, `"model":"`+name+`"`) || !strings.Contains(r.body, "yes") {
				t.Errorf("%s as %s: %d %s", path, name, r.status, r.body)
			}
		}
	}
	if r := a.post("/api/chat", `{"model":"lost"}`); r.status != 404 || errorText(t, r) != "model 'lost' not found" {
		t.Errorf("an alias of nothing: %d %s", r.status, r.body)
	}
	if r := a.post("/api/show", `{"model":"gpt-4"}`); r.status != 404 {
		t.Errorf("show knows aliases, Ollama's doesn't: %d", r.status)
	}
}
