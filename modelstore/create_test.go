package modelstore

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/types/model"
)

func TestCreateFromAFileMakesAModelWithAllThatServingNeeds(t *testing.T) {
	s := openStore(t, t.TempDir())
	digest := upload(t, s, ggufFile(t, 64, nil))
	var statuses []string
	err := s.Create(t.Context(), CreateRequest{
		Name:       name(t, "Test"),
		Files:      map[string]string{"model.gguf": digest},
		Template:   "{{ .System }} {{ .Prompt }}",
		System:     "Be brief.",
		Licenses:   []string{"MIT", "second"},
		Parameters: map[string]any{"temperature": 0.5, "num_ctx": 512, "stop": []string{"a", "b"}, "mirostat": 1},
		Messages:   []api.Message{{Role: "user", Content: "hi"}, {Role: "assistant", Content: "hello"}},
		Renderer:   "qwen3-coder", Parser: "qwen3", Requires: "0.14.0",
	}, func(p Progress) { statuses = append(statuses, p.Status) })
	if err != nil {
		t.Fatal(err)
	}
	m := get(t, s, "test:LATEST")
	if got := m.Name.DisplayShortest(); got != "Test:latest" {
		t.Errorf("name %q", got)
	}
	d, _ := ParseDigest(digest)
	if m.ModelBlob != d || m.ModelPath != s.BlobPath(d) {
		t.Errorf("model blob %v at %s", m.ModelBlob, m.ModelPath)
	}
	want := model.ConfigV2{
		ModelFormat: "gguf", ModelFamily: "llama", ModelFamilies: []string{"llama"}, ModelType: "64", FileType: "F16",
		Renderer: "qwen3-coder", Parser: "qwen3", Requires: "0.14.0", Architecture: "amd64", OS: "linux", RootFS: m.Config.RootFS,
	}
	if diff := cmp.Diff(want, m.Config); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"temperature": 0.5, "num_ctx": 512., "stop": []any{"a", "b"}, "mirostat": 1.}, m.Parameters); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]api.Message{{Role: "user", Content: "hi"}, {Role: "assistant", Content: "hello"}}, m.Messages); diff != "" {
		t.Error(diff)
	}
	if m.System != "Be brief." || m.Template.String() != "{{ .System }} {{ .Prompt }}" || !slices.Equal(m.Licenses, []string{"MIT", "second"}) {
		t.Errorf("system %q, template %q, licenses %q", m.System, m.Template, m.Licenses)
	}
	if statuses[0] != "parsing GGUF" || statuses[1] != "using existing layer "+digest ||
		!strings.HasPrefix(statuses[2], "creating new layer sha256:") || !slices.Equal(statuses[len(statuses)-2:], []string{"writing manifest", "success"}) {
		t.Errorf("statuses %q", statuses)
	}
	var total int64
	for p, content := range files(t, filepath.Join(s.dir, "blobs")) {
		total += int64(len(content))
		if DigestOf([]byte(content)).file() != p {
			t.Errorf("blob %s holds something else", p)
		}
	}
	if m.Size != total {
		t.Errorf("size %d, want that of all blobs, %d", m.Size, total)
	}
}

func TestCreateDetectsTheTemplateWithItsStopParameters(t *testing.T) {
	s := openStore(t, t.TempDir())
	var statuses []string
	req := CreateRequest{Name: name(t, "x"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 8, nil))}}
	if err := s.Create(t.Context(), req, func(p Progress) { statuses = append(statuses, p.Status) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(statuses, "using autodetected template chatml") {
		t.Errorf("statuses %q", statuses)
	}
	m := get(t, s, "x")
	if !m.Template.Contains("<|im_start|>") {
		t.Errorf("template %q", m.Template)
	}
	if diff := cmp.Diff(map[string]any{"stop": []any{"<|im_start|>", "<|im_end|>"}}, m.Parameters); diff != "" {
		t.Error(diff)
	}
	// What the request says goes before what was detected, and leaves no trace of it.
	req.Name, req.Template, req.Parameters = name(t, "y"), "{{ .Prompt }}!", map[string]any{"stop": []any{"x"}}
	create(t, s, req)
	if err := s.Delete(name(t, "x")); err != nil {
		t.Fatal(err)
	}
	m = get(t, s, "y")
	if m.Template.String() != "{{ .Prompt }}!" || !cmp.Equal(m.Parameters, map[string]any{"stop": []any{"x"}}) {
		t.Errorf("template %q, parameters %v", m.Template, m.Parameters)
	}
	if n := len(paths(t, filepath.Join(s.dir, "blobs"))); n != 4 {
		t.Errorf("%d blobs, want weights, template, parameters and config", n)
	}
}

func TestAHugeChatTemplateIsNotCompared(t *testing.T) {
	s := openStore(t, t.TempDir())
	long := strings.Repeat(chatML, 4000) // a megabyte: comparing would take hours
	create(t, s, CreateRequest{Name: name(t, "x"), Files: map[string]string{
		"m.gguf": upload(t, s, ggufFile(t, 8, ggml.KV{"tokenizer.chat_template": long})),
	}})
	if m := get(t, s, "x"); m.Template.String() != "{{ .Prompt }}" {
		t.Errorf("template %q", m.Template)
	}
}

func TestCreateFromAModelInheritsAndOverrides(t *testing.T) {
	s := openStore(t, t.TempDir())
	create(t, s, CreateRequest{
		Name: name(t, "base"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 8, nil))},
		System: "old", Licenses: []string{"one"}, Parameters: map[string]any{"top_k": 5, "seed": 1},
		Messages: []api.Message{{Role: "user", Content: "old"}}, Renderer: "r", Parser: "p", Requires: "1.0.0",
	})
	create(t, s, CreateRequest{
		Name: name(t, "derived"), From: "BASE", System: "new", Licenses: []string{"two"},
		Parameters: map[string]any{"seed": 2, "num_ctx": 16}, Parser: "own",
	})
	base, m := get(t, s, "base"), get(t, s, "derived")
	if m.ModelBlob != base.ModelBlob || m.ParentModel != "BASE:latest" {
		t.Errorf("blob %v, parent %q", m.ModelBlob, m.ParentModel)
	}
	want := map[string]any{"top_k": 5., "seed": 2., "num_ctx": 16., "stop": []any{"<|im_start|>", "<|im_end|>"}}
	if diff := cmp.Diff(want, m.Parameters); diff != "" {
		t.Error(diff)
	}
	if m.System != "new" || !slices.Equal(m.Licenses, []string{"one", "two"}) || m.Messages[0].Content != "old" {
		t.Errorf("system %q, licenses %q, messages %v", m.System, m.Licenses, m.Messages)
	}
	if m.Config.Renderer != "r" || m.Config.Parser != "own" || m.Config.Requires != "1.0.0" {
		t.Errorf("config %+v", m.Config)
	}
	if base.System != "old" || len(base.Licenses) != 1 {
		t.Error("the base has changed")
	}
}

func TestReplacingAModelRemovesWhatOnlyItNeeded(t *testing.T) {
	for _, keep := range []bool{false, true} {
		var opts []Option
		if keep {
			opts = append(opts, KeepUnused())
		}
		s := openStore(t, t.TempDir(), opts...)
		createSmall(t, s, "x", 8)
		create(t, s, CreateRequest{Name: name(t, "x"), From: "x", System: "first"})
		old := get(t, s, "x")
		before := len(paths(t, filepath.Join(s.dir, "blobs")))
		create(t, s, CreateRequest{Name: name(t, "X"), From: "x", System: "second"})
		m := get(t, s, "x")
		if m == old || m.System != "second" {
			t.Fatalf("system %q", m.System)
		}
		there, err := s.HasBlob(DigestOf([]byte("first")))
		if err != nil || there != keep {
			t.Errorf("keep %v: the replaced text is there: %v, %v", keep, there, err)
		}
		if n := len(paths(t, filepath.Join(s.dir, "blobs"))); !keep && n != before {
			t.Errorf("%d blobs, want %d", n, before)
		}
	}
}

func TestCreateTakesProjectorsAndAdapters(t *testing.T) {
	s := openStore(t, t.TempDir())
	projector := ggml.KV{"general.architecture": "clip", "clip.vision.block_count": uint32(1), "clip.projector_type": "mlp", "tokenizer.chat_template": nil}
	adapter := ggml.KV{"general.type": "adapter", "tokenizer.chat_template": nil, "adapter.lora.alpha": float32(16)}
	create(t, s, CreateRequest{
		Name: name(t, "x"),
		Files: map[string]string{
			"a-mmproj.gguf": upload(t, s, ggufFile(t, 4, projector)),
			"model.gguf":    upload(t, s, ggufFile(t, 8, nil)),
		},
		Adapters: map[string]string{"lora.gguf": upload(t, s, ggufFile(t, 2, adapter))},
	})
	m := get(t, s, "x")
	if len(m.ProjectorPaths) != 1 || len(m.AdapterPaths) != 1 || m.ModelPath == "" {
		t.Errorf("projectors %v, adapters %v, model %q", m.ProjectorPaths, m.AdapterPaths, m.ModelPath)
	}
	if m.Config.ModelFamily != "llama" || !slices.Equal(m.Config.ModelFamilies, []string{"llama", "clip", "llama"}) {
		t.Errorf("family %q of %q", m.Config.ModelFamily, m.Config.ModelFamilies)
	}
	if diff := cmp.Diff([]model.Capability{"completion", "vision"}, m.Capabilities()); diff != "" {
		t.Error(diff)
	}
	info, err := m.ProjectorInfo(false)
	if err != nil || info["clip.projector_type"] != "mlp" {
		t.Errorf("projector %v, %v", info, err)
	}
}

func TestAnUnknownArchitectureIsAccepted(t *testing.T) {
	s := openStore(t, t.TempDir())
	create(t, s, CreateRequest{Name: name(t, "x"), Files: map[string]string{
		"m.gguf": upload(t, s, ggufFile(t, 8, ggml.KV{"general.architecture": "neverheard"})),
	}})
	if f := get(t, s, "x").Config.ModelFamily; f != "neverheard" {
		t.Errorf("family %q", f)
	}
}

func TestARemoteModelHasAConfigAndNoLayers(t *testing.T) {
	s := openStore(t, t.TempDir())
	create(t, s, CreateRequest{
		Name: name(t, "x"), From: "big:120b", RemoteHost: "ollama.com",
		Info: map[string]any{"capabilities": []any{"completion", "tools"}, "model_family": "gptoss", "context_length": 4096.},
	})
	m := get(t, s, "x")
	if m.Config.RemoteHost != "https://ollama.com:443" || m.Config.RemoteModel != "big:120b" || m.Config.ContextLen != 4096 {
		t.Errorf("config %+v", m.Config)
	}
	if diff := cmp.Diff([]model.Capability{"completion", "tools", "thinking"}, m.Capabilities()); diff != "" {
		t.Error(diff)
	}
	if _, err := m.Info(); !errors.Is(err, ErrNoWeights) {
		t.Errorf("Info: %v", err)
	}
	// A model made from it stays remote.
	create(t, s, CreateRequest{Name: name(t, "y"), From: "x", System: "hi"})
	if m := get(t, s, "y"); m.Config.RemoteModel != "big:120b" || m.System != "hi" {
		t.Errorf("config %+v", m.Config)
	}
}

func TestRemoteAddressesAreCompleted(t *testing.T) {
	for in, want := range map[string]string{
		"/a/../b": "http://localhost:11434/b", "host": "http://host:11434", "host:1/": "http://host:1",
		"https://h/x/": "https://h:11434/x", "ollama.com": "https://ollama.com:443",
	} {
		if got, err := remoteURL(in); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
	if _, err := remoteURL("http://[x"); err == nil {
		t.Error("a bad address is accepted")
	}
}

func TestBadCreateRequestsHaveOllamasTexts(t *testing.T) {
	s := openStore(t, t.TempDir())
	good := upload(t, s, ggufFile(t, 8, nil))
	whole := ggufFile(t, 64, nil)
	gguf := func(width int, pairs ggml.KV) map[string]string {
		return map[string]string{"m.gguf": upload(t, s, ggufFile(t, width, pairs))}
	}
	raw := func(file, content string) map[string]string {
		return map[string]string{file: upload(t, s, []byte(content))}
	}
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	base := map[string]string{"m.gguf": good}
	cases := []struct {
		name string
		req  CreateRequest
		want string
	}{
		{"nothing to make it of", CreateRequest{}, "neither 'from' or 'files' was specified"},
		{"no files", CreateRequest{Files: map[string]string{}}, "unknown type"},
		{"absolute path", CreateRequest{Files: map[string]string{"/m.gguf": good}}, "file path must be relative"},
		{"path outside", CreateRequest{Files: map[string]string{"../m.gguf": good}}, "file path must be relative"},
		{"bad digest", CreateRequest{Files: map[string]string{"m.gguf": "sha256:12"}}, "invalid digest format"},
		{"bad digest, no ending", CreateRequest{Files: map[string]string{"m": "../../etc/passwd"}}, "invalid digest format"},
		{"no such blob", CreateRequest{Files: map[string]string{"m.gguf": Digest{set: true}.String()}}, "is not in the model folder: upload it first"},
		{"no GGUF", CreateRequest{Files: raw("m.gguf", "hello")}, "supplied file was not in GGUF format"},
		{"empty file", CreateRequest{Files: raw("m.gguf", "")}, "supplied file was not in GGUF format"},
		{"neither ending nor magic", CreateRequest{Files: raw("m", "hello")}, "unknown type"},
		{"cut off in the header", CreateRequest{Files: raw("m.gguf", string(whole[:100]))}, "is cut off"},
		{"cut off in the data", CreateRequest{Files: raw("m.gguf", string(whole[:len(whole)-1]))}, "is cut off"},
		{"cut off without ending", CreateRequest{Files: raw("m", string(whole[:100]))}, "is cut off"},
		{"absurd counts", CreateRequest{Files: raw("m.gguf", "GGUF\x03\x00\x00\x00"+strings.Repeat("\xff", 64))}, "more than fit"},
		{"no architecture", CreateRequest{Files: raw("m.gguf", "GGUF\x03\x00\x00\x00"+zeros(16))}, "names no architecture"},
		{"no tensors", CreateRequest{Files: gguf(0, nil)}, "holds no tensors"},
		{"split", CreateRequest{Files: raw("m.gguf", "GGUF\x03\x00\x00\x00"+zeros(8)+"\x01"+zeros(7)+"\x0b"+zeros(7)+"split.count\x02\x00\x00\x00\x03\x00")}, "not all parts of one model"},
		{"adapter alone", CreateRequest{Files: gguf(8, ggml.KV{"general.type": "adapter"})}, "hold no model"},
		{"two models", CreateRequest{Files: map[string]string{"a.gguf": good, "b.gguf": upload(t, s, ggufFile(t, 16, nil))}}, "a.gguf, b.gguf hold more than one model"},
		{"safetensors", CreateRequest{Files: map[string]string{"model.safetensors": good}}, "config.json is missing"},
		{"no adapters", CreateRequest{Files: base, Adapters: map[string]string{}}, "unknown type"},
		{"adapter that is none", CreateRequest{Files: base, Adapters: base}, "is no adapter"},
		{"two adapters", CreateRequest{Files: base, Adapters: map[string]string{"a.gguf": good, "b.gguf": good}}, "only one adapter is currently supported"},
		{"safetensors adapter", CreateRequest{Files: base, Adapters: map[string]string{"a.safetensors": good}}, "adapter_config.json is missing"},
		{"template", CreateRequest{Files: base, Template: "{{ .Prompt"}, "template error: template: :1: unclosed action"},
		{"template without end", CreateRequest{Files: base, Template: strings.Repeat("{{if 1}}", maxTemplate)}, "template error: the template is longer"},
		{"deep template", CreateRequest{Files: base, Template: strings.Repeat("{{if 1}}", maxTemplate/8)}, "template error: "},
		{"unknown parameter", CreateRequest{Files: base, Parameters: map[string]any{"wings": 2}}, "unknown parameter 'wings'"},
		{"parameter type", CreateRequest{Files: base, Parameters: map[string]any{"num_ctx": "many"}}, `option "num_ctx" must be of type integer`},
		{"stop is no list", CreateRequest{Files: base, Parameters: map[string]any{"stop": "x"}}, `option "stop" must be of type array`},
		{"parameter without JSON", CreateRequest{Files: base, Parameters: map[string]any{"seed": make(chan int)}}, "can't be written as JSON"},
		{"info type", CreateRequest{Files: base, Info: map[string]any{"model_family": 1.}}, `info "model_family" must be of type string`},
		{"info number", CreateRequest{Files: base, Info: map[string]any{"context_length": "1"}}, `info "context_length" must be of type number`},
		{"quantization type", CreateRequest{Files: base, Quantization: "q9_9"}, "unsupported quantization type Q9_9 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"},
		{"quantized already", CreateRequest{Files: gguf(8, ggml.KV{"general.file_type": uint32(7)}), Quantization: "q4_K_M"}, "quantization is only supported for F16 and F32 models"},
		{"no quantizer", CreateRequest{Files: base, Quantization: "q4_0"}, "this program can't quantize"},
		{"no quantizer for it", CreateRequest{Files: base, Quantization: "q8_0"}, "this program can't quantize"},
		{"base name", CreateRequest{From: "a/b/c/d/e"}, "the model name \"a/b/c/d/e\" is invalid"},
		{"remote", CreateRequest{From: "x", RemoteHost: "http://[x"}, "bad remote"},
	}
	before := paths(t, s.dir)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.req.Name = name(t, "never")
			err := s.Create(t.Context(), c.req, nil)
			if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ... %s ...", err, c.want)
			}
			if diff := cmp.Diff(before, paths(t, s.dir)); diff != "" {
				t.Errorf("the folder has changed: %s", diff)
			}
		})
	}
	if err := s.Create(t.Context(), CreateRequest{Name: Name{Model: "../x"}, Files: base}, nil); !errors.Is(err, ErrBadRequest) {
		t.Errorf("a bad name: got %v", err)
	}
	var missing *NotFoundError
	if err := s.Create(t.Context(), CreateRequest{Name: name(t, "x"), From: "nobody"}, nil); !errors.As(err, &missing) || missing.Name.Model != "nobody" {
		t.Errorf("a base that is not there: got %v", err)
	}
	if len(s.held) != 0 {
		t.Errorf("blobs are still held: %v", s.held)
	}
}

func TestLicensesAreTextOrListOfTexts(t *testing.T) {
	for _, c := range []struct {
		in   any
		want []string
		bad  bool
	}{
		{nil, nil, false}, {"", nil, false}, {"MIT", []string{"MIT"}, false}, {[]any{"a", "b"}, []string{"a", "b"}, false},
		{[]string{"a"}, []string{"a"}, false}, {1., nil, true}, {[]any{1.}, nil, true}, {map[string]any{}, nil, true},
	} {
		got, err := ParseLicense(c.in)
		if !slices.Equal(got, c.want) || errors.Is(err, ErrBadRequest) != c.bad {
			t.Errorf("%v: got %q, %v", c.in, got, err)
		}
	}
}

func TestCreateObeysItsContext(t *testing.T) {
	s := openStore(t, t.TempDir())
	files := map[string]string{"m.gguf": upload(t, s, ggufFile(t, 64, nil))}
	before := paths(t, s.dir)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Create(ctx, CreateRequest{Name: name(t, "x"), Files: files, System: "s"}, func(p Progress) {
		if strings.HasPrefix(p.Status, "creating") {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, paths(t, s.dir)); diff != "" {
		t.Error(diff)
	}
}
