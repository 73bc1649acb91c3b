package modelstore

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/fs/ggml"
)

func TestQuantizeReplacesTheWeights(t *testing.T) {
	s := openStore(t, t.TempDir())
	quantized := ggufFile(t, 16, ggml.KV{"general.file_type": uint32(15)})
	source := ggufFile(t, 64, nil)
	var lines []Progress
	req := CreateRequest{
		Name: name(t, "x"), Files: map[string]string{"m.gguf": upload(t, s, source)}, Quantization: "q4_k_m",
		Quantize: func(_ context.Context, src, dst, typ string, progress func(done, total int64)) error {
			if got, err := os.ReadFile(src); err != nil || string(got) != string(source) || typ != "Q4_K_M" {
				t.Errorf("quantizing %s to %s: %v", src, typ, err)
			}
			progress(5, 10)
			// As a C++ library does: the file is opened by its path and cut to nothing.
			return os.WriteFile(dst, quantized, 0o600)
		},
	}
	if err := s.Create(t.Context(), req, func(p Progress) { lines = append(lines, p) }); err != nil {
		t.Fatal(err)
	}
	m := get(t, s, "x")
	if m.ModelBlob != DigestOf(quantized) || m.Config.FileType != "Q4_K_M" || m.ParentModel != "" || m.Config.ModelType != "16" {
		t.Errorf("blob %v, parent %q, config %+v", m.ModelBlob, m.ParentModel, m.Config)
	}
	want := Progress{Status: "quantizing F16 model to Q4_K_M", Digest: "0000000000000000000", Total: int64(len(source)), Completed: int64(len(source)) / 2}
	if !slices.Contains(lines, want) || !slices.Contains(lines, Progress{Status: "verifying conversion"}) {
		t.Errorf("progress %+v", lines)
	}

	// The type that the weights have already asks for nothing.
	req.Name, req.Quantization, req.Quantize = name(t, "y"), "f16", nil
	create(t, s, req)
	if m := get(t, s, "y"); m.ModelBlob != DigestOf(source) {
		t.Errorf("blob %v", m.ModelBlob)
	}
}

func TestAFailedQuantizationLeavesNothing(t *testing.T) {
	s := openStore(t, t.TempDir())
	req := CreateRequest{Name: name(t, "x"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 64, nil))}, Quantization: "q8_0"}
	before := paths(t, s.dir)
	broken := errors.New("the quantizer broke")
	ctx, cancel := context.WithCancel(t.Context())
	for what, quantize := range map[string]func(dst string) error{
		"an error":    func(string) error { return broken },
		"no GGUF":     func(dst string) error { return os.WriteFile(dst, []byte("rubbish"), 0o600) },
		"a cancel":    func(dst string) error { cancel(); return os.WriteFile(dst, ggufFile(t, 8, nil), 0o600) },
		"a lost file": os.Remove,
	} {
		req.Quantize = func(_ context.Context, _, dst, _ string, _ func(done, total int64)) error { return quantize(dst) }
		if err := s.Create(ctx, req, nil); err == nil {
			t.Errorf("%s is no error", what)
		}
		if diff := cmp.Diff(before, paths(t, s.dir)); diff != "" {
			t.Errorf("after %s: %s", what, diff)
		}
	}
}

func TestQuantizeSaysThatAnotherProgramRemovedTheWeights(t *testing.T) {
	s := openStore(t, t.TempDir())
	req := CreateRequest{
		Name: name(t, "x"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 64, nil))}, Quantization: "q8_0",
		Quantize: func(_ context.Context, src, _, _ string, _ func(done, total int64)) error {
			if err := os.Remove(src); err != nil {
				t.Error(err)
			}
			_, err := os.ReadFile(src)
			return err
		},
	}
	var missing *MissingBlobError
	if err := s.Create(t.Context(), req, nil); !errors.As(err, &missing) || !strings.Contains(err.Error(), "upload it first") {
		t.Errorf("got %v", err)
	}
}
