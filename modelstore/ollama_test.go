package modelstore

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/fs/ggml"
	ollama "github.com/ollama/ollama/manifest"
	"github.com/ollama/ollama/types/model"
)

// ollamaLayer makes a layer with Ollama's own code.
func ollamaLayer(t *testing.T, mediaType, content string) ollama.Layer {
	t.Helper()
	l, err := ollama.NewLayer(strings.NewReader(content), mediaType)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// writeWithOllama writes, with Ollama's own code, the model that the request of
// TestCreateWritesTheBytesThatOllamaWrites asks for.
func writeWithOllama(t *testing.T, n model.Name, weights string) {
	t.Helper()
	digest := DigestOf([]byte(weights)).String()
	ollamaLayer(t, "", weights)
	blob, err := ollama.BlobsPath(digest)
	if err != nil {
		t.Fatal(err)
	}
	from, err := ollama.NewLayerFromLayer(digest, "application/vnd.ollama.image.model", blob)
	if err != nil {
		t.Fatal(err)
	}
	layers := []ollama.Layer{
		from,
		ollamaLayer(t, "application/vnd.ollama.image.template", "{{ .Prompt }} <&>"),
		ollamaLayer(t, "application/vnd.ollama.image.system", "Be <brief>."),
		ollamaLayer(t, "application/vnd.ollama.image.license", "MIT"),
		ollamaLayer(t, "application/vnd.ollama.image.params", asJSON(t, map[string]any{
			"temperature": 0.5, "num_ctx": 512, "stop": []string{"<|im_start|>", "<|im_end|>"},
		})),
		ollamaLayer(t, "application/vnd.ollama.image.messages", asJSON(t, []api.Message{{Role: "user", Content: "a<b"}})),
	}
	config := model.ConfigV2{
		ModelFormat: "gguf", ModelFamily: "llama", ModelFamilies: []string{"llama"}, ModelType: "8", FileType: "F16",
		Renderer: "r", Parser: "p", Requires: "1.2.3", OS: "linux", Architecture: "amd64", RootFS: model.RootFS{Type: "layers"},
	}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
	}
	if err := ollama.WriteManifest(n, ollamaLayer(t, "application/vnd.docker.container.image.v1+json", asJSON(t, config)), layers); err != nil {
		t.Fatal(err)
	}
}

func TestCreateWritesTheBytesThatOllamaWrites(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OLLAMA_MODELS", dir)
	weights := ggufFile(t, 8, nil)
	s := openStore(t, dir)
	create(t, s, CreateRequest{
		Name: name(t, "x"), Files: map[string]string{"m.gguf": upload(t, s, weights)},
		Template: "{{ .Prompt }} <&>", System: "Be <brief>.", Licenses: []string{"MIT"},
		Parameters: map[string]any{"temperature": 0.5, "num_ctx": 512},
		Messages:   []api.Message{{Role: "user", Content: "a<b"}},
		Renderer:   "r", Parser: "p", Requires: "1.2.3",
	})
	ours := files(t, dir)

	for _, d := range []string{"blobs", "manifests"} {
		if err := os.RemoveAll(filepath.Join(dir, d)); err != nil {
			t.Fatal(err)
		}
	}
	writeWithOllama(t, name(t, "x"), string(weights))
	if diff := cmp.Diff(files(t, dir), ours); diff != "" {
		t.Errorf("Ollama's folder (-) and ours (+) differ:\n%s", diff)
	}
}

func TestOllamaReadsOurFolder(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OLLAMA_MODELS", dir)
	s := openStore(t, dir)
	createSmall(t, s, "a", 8)
	createSmall(t, s, "me/b:tag", 16)
	createSmall(t, s, "host.example:5000/me/c", 24)
	found, err := ollama.Manifests(false)
	if err != nil || len(found) != 3 {
		t.Fatalf("Ollama finds %d models, want 3: %v", len(found), err)
	}
	entries, err := s.List()
	if err != nil || len(entries) != 3 {
		t.Fatalf("we list %d models, want 3: %v", len(entries), err)
	}
	for _, e := range entries {
		n := e.Name
		n.ProtocolScheme = ""
		m := found[n]
		if m == nil {
			t.Fatalf("Ollama does not find %v", e.Name)
		}
		if m.Digest() != e.Digest.Hex() || m.Size() != e.Size || !m.FileInfo().ModTime().Equal(e.ModifiedAt) {
			t.Errorf("%v: Ollama says %s, %d, %v; we say %+v", e.Name, m.Digest(), m.Size(), m.FileInfo().ModTime(), e)
		}
		if l := m.Layers[0]; l.MediaType != mediaModel {
			t.Errorf("first layer %+v", l)
		}
		r, err := m.Layers[0].Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ggml.Decode(r, -1); err != nil {
			t.Error(err)
		}
		r.Close()
	}
	for n, m := range found {
		if err := m.Remove(); err != nil {
			t.Fatal(err)
		}
		if err := m.RemoveLayers(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(n); err == nil {
			t.Errorf("%v was removed by Ollama, and we still have it", n)
		}
	}
	if left := paths(t, dir); len(left) != 0 {
		t.Errorf("Ollama left %q", left)
	}
	// Ollama has removed the folder of manifests too; we go on all the same.
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("list %v, %v", list, err)
	}
	createSmall(t, s, "again", 8)
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("list %v, %v", list, err)
	}
}

func TestWeReadOllamasFolder(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OLLAMA_MODELS", dir)
	s := openStore(t, dir)
	weights := ggufFile(t, 8, nil)
	writeWithOllama(t, name(t, "Mixed:Case"), string(weights))
	m := get(t, s, "mixed:case")
	if m.Name.DisplayShortest() != "Mixed:Case" || m.System != "Be <brief>." || m.Template.String() != "{{ .Prompt }} <&>" || m.Config.FileType != "F16" {
		t.Errorf("got %+v", m)
	}
	// A change by Ollama is seen at once, though it writes into the same file.
	before := m.Digest
	path := filepath.Join(dir, library, "Mixed", "Case")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, strings.Replace(string(raw), `"schemaVersion":2`, `"schemaVersion":3`, 1))
	if m := get(t, s, "mixed:case"); m.Digest == before {
		t.Error("the manifest was not read again")
	}
	if err := s.Delete(name(t, "mixed:case")); err != nil {
		t.Fatal(err)
	}
	if left := paths(t, dir); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}

func TestOldMediaTypesAndEmptyManifestsAreRead(t *testing.T) {
	s := openStore(t, t.TempDir())
	d := DigestOf([]byte("{{ .Prompt }} old"))
	upload(t, s, []byte("{{ .Prompt }} old"))
	writeFile(t, filepath.Join(s.dir, library, "old/latest"), `{"layers":[`+
		`{"mediaType":"application/vnd.ollama.image.prompt","digest":"sha256-`+strings.ToUpper(d.Hex())+`","size":17},`+
		`{"mediaType":"application/vnd.ollama.image.embed","digest":"`+d.String()+`"}]} trailing`)
	writeFile(t, filepath.Join(s.dir, library, "empty/latest"), `{"schemaVersion":0,"mediaType":"","config":{"mediaType":"","digest":"","size":0},"layers":null}`)
	if m := get(t, s, "old"); m.Template.String() != "{{ .Prompt }} old" || m.Size != 17 {
		t.Errorf("template %q, size %d", m.Template, m.Size)
	}
	if m := get(t, s, "empty"); m.Template.String() != "{{ .Prompt }}" || m.ModelPath != "" || m.Parameters != nil {
		t.Errorf("got %+v", m)
	}
}

// Whatever stands in a manifest, reading it is safe and never leaves the folder.
func FuzzManifest(f *testing.F) {
	s := openStore(f, f.TempDir())
	createSmall(f, s, "good", 8)
	path := filepath.Join(s.dir, library, "good", "latest")
	raw, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	for _, media := range []string{"template", "params", "messages", "system", "projector"} {
		f.Add(bytes.ReplaceAll(raw, []byte("image.model"), []byte("image."+media)))
	}
	f.Add([]byte(`{"layers":[{"digest":"sha256:../../../etc/passwd"}]}`))
	f.Add([]byte(`{"config":{"digest":""},"layers":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		writeFile(t, path, string(raw))
		m, err := s.Get(name(t, "good"))
		if err != nil {
			return
		}
		m.Capabilities()
		m.Modelfile()
		for _, p := range append(m.ProjectorPaths, m.AdapterPaths...) {
			if filepath.Dir(p) != s.blobs.path {
				t.Errorf("%q lies outside", p)
			}
		}
	})
}
