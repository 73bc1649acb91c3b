package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cllm/llm/llmtest/tinymodel"
	"cllm/modelstore/modelstoretest"
)

// registryWithTiny starts a registry that has the random model, whose answers are
// short. It returns the name to pull it by, and the digest of its weights.
func registryWithTiny(t *testing.T) (reg *modelstoretest.Loopback, name, weights string, size int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := tinymodel.WriteRandom(file, tinymodel.Tiny, 1); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reg = modelstoretest.NewLoopback(t)
	m := reg.AddModel("library/tiny:latest", content)
	params := []byte(`{"num_predict":8,"temperature":0}`)
	m.Layers = append(m.Layers, modelstoretest.Layer{
		MediaType: "application/vnd.ollama.image.params", Digest: reg.AddBlob(params), Size: int64(len(params)),
	})
	reg.SetManifest("library/tiny:latest", m)
	return reg, reg.Host + "/library/tiny", m.Layers[0].Digest, len(content)
}

func TestRunOnATerminalPullsAMissingModelAndAnswers(t *testing.T) {
	s := serveE2E(t, "")
	reg, name, weights, size := registryWithTiny(t)
	// The connection breaks once, so that half a bar stands for a second.
	reg.On("GET", weights, 1, modelstoretest.CutAfter(size/2+1))
	t.Setenv("HOME", s.home)
	t.Setenv("OLLAMA_HOST", s.url)
	term := onTerminal(t, 100, "run", "--insecure", name, "hello")
	term.expect("pulling manifest")
	term.expect("pulling " + weights[7:19] + ":  50% ▕██")
	term.expect("pulling " + weights[7:19] + ": 100% ▕██")
	term.expect("success" + clearToEnd + "\r\n")
	if code := term.wait(); code != 0 {
		t.Errorf("exit code %d: %q", code, term.all)
	}
	want := s.must(t, "", "run", name, "hello") // it is here now
	if strings.TrimSpace(want) == "" || !strings.Contains(strings.ReplaceAll(term.all, "\r", ""), strings.TrimSpace(want)) {
		t.Errorf("the answer is %q, on the terminal stands %q", want, term.all)
	}
}

func TestPullBringsAModelThatAnswers(t *testing.T) {
	s := serveE2E(t, "")
	reg, name, weights, _ := registryWithTiny(t)
	_, told, err := s.cllm("", "pull", "--insecure", name)
	if err != nil {
		t.Fatalf("%v: %s", err, told)
	}
	for _, line := range []string{"pulling manifest", "pulling " + weights[7:19] + ": 100%", "verifying sha256 digest", "writing manifest", "success"} {
		if !strings.Contains(told, line) {
			t.Errorf("%q is not told:\n%s", line, told)
		}
	}
	if answer := s.must(t, "", "run", name, "hello"); strings.TrimSpace(answer) == "" {
		t.Error("run answers nothing")
	}
	reg.Asked()
	s.must(t, "", "pull", "--insecure", name)
	if asked := reg.Asked(); len(asked) != 1 {
		t.Errorf("a second pull asks for more than the manifest: %q", asked)
	}
	if _, errs, err := s.cllm("", "run", "--insecure", reg.Host+"/library/nowhere", "hello"); err == nil || !strings.Contains(errs, "Error: pull model manifest: file does not exist") {
		t.Errorf("a model that is nowhere: %v, %q", err, errs)
	}
}
