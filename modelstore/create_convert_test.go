package modelstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cllm/llm/llmtest/tinymodel"
)

func tinyLlama() tinymodel.Shape {
	s := tinymodel.Tiny
	s.HeadWidth = s.Width / s.Heads
	return s
}

// uploadFolder stores the files of a folder, and returns name → digest.
func uploadFolder(t testing.TB, s *Store, f *tinymodel.Folder, parts int) map[string]string {
	t.Helper()
	dir, sent := t.TempDir(), make(map[string]string)
	if err := f.Write(dir, "F32", parts); err != nil {
		t.Fatal(err)
	}
	for n, content := range files(t, dir) {
		sent[n] = upload(t, s, []byte(content))
	}
	return sent
}

func TestCreateFromSafetensors(t *testing.T) {
	s := openStore(t, t.TempDir())
	var lines []string
	req := CreateRequest{Name: name(t, "x"), Files: uploadFolder(t, s, tinymodel.RandomFolder("LlamaForCausalLM", tinyLlama(), 1), 2)}
	if err := s.Create(t.Context(), req, func(p Progress) { lines = append(lines, p.Status) }); err != nil {
		t.Fatal(err)
	}
	m := get(t, s, "x")
	if c := m.Config; c.ModelFormat != "gguf" || c.ModelFamily != "llama" || c.FileType != "F16" || m.ParentModel != "" {
		t.Errorf("config %+v, parent %q", c, m.ParentModel)
	}
	if m.Template == nil || !strings.Contains(m.Template.String(), "<|im_start|>") {
		t.Errorf("template %v", m.Template)
	}
	digest := m.ModelBlob.String()
	want := []string{"converting model", "creating new layer " + digest, "using autodetected template chatml"}
	if !slices.Equal(lines[:3], want) || lines[len(lines)-1] != "success" {
		t.Errorf("lines %q", lines)
	}
	// The same files again make the same blob.
	lines = nil
	if err := s.Create(t.Context(), req, func(p Progress) { lines = append(lines, p.Status) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(lines, "using existing layer "+digest) {
		t.Errorf("lines %q", lines)
	}
}

func TestCreateWithASafetensorsAdapter(t *testing.T) {
	s := openStore(t, t.TempDir())
	base := tinymodel.RandomFolder("Qwen3ForCausalLM", tinymodel.Tiny, 1)
	create(t, s, CreateRequest{Name: name(t, "base"), Files: uploadFolder(t, s, base, 1)})
	adapter := base.RandomAdapter(4, 8, 2)
	create(t, s, CreateRequest{Name: name(t, "x"), From: "base", Adapters: uploadFolder(t, s, adapter, 1)})
	b, x := get(t, s, "base"), get(t, s, "x")
	if x.ModelBlob != b.ModelBlob || len(x.AdapterPaths) != 1 || len(b.AdapterPaths) != 0 || x.ParentModel != "base:latest" {
		t.Errorf("%+v", x)
	}
	// The converted adapter is one that may be used as it is, and one for another model is not.
	raw, err := os.ReadFile(x.AdapterPaths[0])
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, CreateRequest{Name: name(t, "y"), From: "base", Adapters: map[string]string{"a.gguf": upload(t, s, raw)}})
	create(t, s, CreateRequest{Name: name(t, "other"), Files: uploadFolder(t, s, tinymodel.RandomFolder("LlamaForCausalLM", tinyLlama(), 1), 1)})
	for _, adapters := range []map[string]string{{"a.gguf": upload(t, s, raw)}, uploadFolder(t, s, adapter, 1)} {
		err := s.Create(t.Context(), CreateRequest{Name: name(t, "z"), From: "other", Adapters: adapters}, nil)
		if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "the adapter is") {
			t.Errorf("an adapter for another model: %v", err)
		}
	}
}

// splitGGUF cuts a model into a file without tensors and one with all of them, as
// gguf-split --no-tensor-first-split does.
func splitGGUF(t testing.TB, whole []byte) map[string][]byte {
	t.Helper()
	le := binary.LittleEndian
	tensors, pairs := le.Uint64(whole[8:]), le.Uint64(whole[16:])
	first := bytes.Index(whole, append(le.AppendUint64(nil, uint64(len("token_embd.weight"))), "token_embd.weight"...))
	if tensors != 1 || first < 0 {
		t.Fatalf("a model of %d tensors", tensors)
	}
	marks := func(no uint16) (b []byte) {
		for _, m := range []struct {
			key  string
			kind uint32
			n    uint32
		}{{"split.no", 2, uint32(no)}, {"split.count", 2, 2}, {"split.tensors.count", 5, 1}} {
			b = append(le.AppendUint64(b, uint64(len(m.key))), m.key...)
			if b = le.AppendUint32(b, m.kind); m.kind == 2 {
				b = le.AppendUint16(b, uint16(m.n))
			} else {
				b = le.AppendUint32(b, m.n)
			}
		}
		return b
	}
	head := func(tensors, pairs uint64) []byte {
		return le.AppendUint64(le.AppendUint64([]byte("GGUF\x03\x00\x00\x00"), tensors), pairs)
	}
	info := whole[first : first+8+len("token_embd.weight")+4+8+4+8]
	data := whole[(first+len(info)+31)/32*32:]
	a := append(append(head(0, pairs+3), whole[24:first]...), marks(0)...)
	b := append(append(head(1, 3), marks(1)...), info...)
	pad := func(b []byte) []byte { return append(b, make([]byte, (32-len(b)%32)%32)...) }
	return map[string][]byte{"m-00001-of-00002.gguf": pad(a), "m-00002-of-00002.gguf": append(pad(b), data...)}
}

func TestCreateFromASplitModel(t *testing.T) {
	s := openStore(t, t.TempDir())
	whole := ggufFile(t, 64, nil)
	sent := make(map[string]string)
	for n, content := range splitGGUF(t, whole) {
		sent[n] = upload(t, s, content)
	}
	create(t, s, CreateRequest{Name: name(t, "x"), Files: sent})
	m := get(t, s, "x")
	merged, err := os.ReadFile(m.ModelPath)
	if err != nil || !bytes.Equal(merged, whole[:len(merged)]) || len(whole)-len(merged) >= 32 {
		t.Errorf("merged %d bytes of %d, %v", len(merged), len(whole), err)
	}
	if m.Config.ModelFamily != "llama" || m.Template == nil {
		t.Errorf("%+v", m)
	}
	delete(sent, "m-00001-of-00002.gguf")
	before := paths(t, s.dir)
	if err := s.Create(t.Context(), CreateRequest{Name: name(t, "y"), Files: sent}, nil); !errors.Is(err, ErrBadRequest) {
		t.Errorf("a part alone: %v", err)
	}
	if diff := cmp.Diff(before, paths(t, s.dir)); diff != "" {
		t.Error(diff)
	}
}

func TestAConversionThatFailsLeavesNothing(t *testing.T) {
	s := openStore(t, t.TempDir())
	llama := tinymodel.RandomFolder("LlamaForCausalLM", tinyLlama(), 1)
	good := uploadFolder(t, s, llama, 1)
	with := func(n, digest string) map[string]string {
		m := map[string]string{n: digest}
		for k, v := range good {
			if _, given := m[k]; !given {
				m[k] = v
			}
		}
		return m
	}
	create(t, s, CreateRequest{Name: name(t, "base"), Files: good})
	adapter := uploadFolder(t, s, llama.RandomAdapter(2, 2, 1), 1)
	outside := map[string]string{"../../adapter_model.safetensors": adapter["adapter_model.safetensors"], "adapter_config.json": adapter["adapter_config.json"]}
	huge := upload(t, s, []byte("\xff\xff\xff\xff\xff\xff\xff\x7f{}"))
	before := files(t, s.dir)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for what, c := range map[string]struct {
		ctx  context.Context
		req  CreateRequest
		want string
	}{
		"a path outside":         {t.Context(), CreateRequest{From: "base", Adapters: outside}, "file path must be relative: ../../adapter_model.safetensors"},
		"an absolute path":       {t.Context(), CreateRequest{Files: with("/etc/passwd", huge)}, "file path must be relative"},
		"a huge header":          {t.Context(), CreateRequest{Files: with("model.safetensors", huge)}, "its header would have"},
		"no config":              {t.Context(), CreateRequest{Files: map[string]string{"model.safetensors": good["model.safetensors"]}}, "config.json is missing"},
		"a file not sent":        {t.Context(), CreateRequest{Files: with("config.json", Digest{set: true}.String())}, "upload it first"},
		"a bad digest":           {t.Context(), CreateRequest{Files: with("config.json", "sha256:../..")}, "invalid digest format"},
		"a model for an adapter": {t.Context(), CreateRequest{From: "base", Adapters: good}, "adapter_config.json is missing"},
		"an adapter for a model": {t.Context(), CreateRequest{Files: adapter}, "config.json is missing"},
		"a cancelled request":    {cancelled, CreateRequest{Files: good, Quantization: "q8_0"}, "context canceled"},
	} {
		c.req.Name = name(t, "never")
		err := s.Create(c.ctx, c.req, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || what != "a cancelled request" && !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: got %v, want ... %s ...", what, err, c.want)
		}
		if diff := cmp.Diff(before, files(t, s.dir)); diff != "" {
			t.Errorf("after %s: %s", what, diff)
		}
	}
}

func TestWhatAQuantizationWasMadeOfDoesNotStay(t *testing.T) {
	s := openStore(t, t.TempDir())
	quantized := ggufFile(t, 16, nil)
	sent := uploadFolder(t, s, tinymodel.RandomFolder("LlamaForCausalLM", tinyLlama(), 1), 1)
	before := paths(t, s.dir)
	create(t, s, CreateRequest{Name: name(t, "x"), Files: sent, Quantization: "iq4_xs",
		Quantize: func(_ context.Context, _, dst, typ string, _ func(done, total int64)) error {
			if typ != "IQ4_XS" {
				t.Errorf("quantizing to %s", typ)
			}
			return os.WriteFile(dst, quantized, 0o600)
		}})
	after := paths(t, s.dir)
	// Model, template, config and manifest are new; parameters when the template has some.
	if n := len(after) - len(before); n < 4 || n > 5 {
		t.Errorf("%d new files: %s", n, cmp.Diff(before, after))
	}
}
