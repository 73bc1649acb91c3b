package modelstore

import (
	"context"
	"os"
	"slices"
	"testing"

	"cllm/llm/llmtest/tinymodel"
	"cllm/modelstore/modelstoretest"
)

// fakeQuantizer returns a quantizer that writes the model with 32 more bytes, in
// pieces, each of which is a step of the store.
func fakeQuantizer(s *Store) func(ctx context.Context, src, dst, typ string, progress func(done, total int64)) error {
	return func(ctx context.Context, src, dst, _ string, progress func(done, total int64)) error {
		content, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(dst, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		content = append(content, make([]byte, 32)...)
		done := 0
		for piece := range slices.Chunk(content, len(content)/4+1) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.blobs.step("quantize"); err != nil {
				return err
			}
			if _, err := f.Write(piece); err != nil {
				return err
			}
			done += len(piece)
			progress(int64(done), int64(len(content)))
		}
		return f.Close()
	}
}

// contents returns a folder's files as they are uploaded.
func contents(t testing.TB, f *tinymodel.Folder, parts int) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	if err := f.Write(dir, "F32", parts); err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]byte)
	for n, content := range files(t, dir) {
		found[n] = []byte(content)
	}
	return found
}

// recipes are the ways to make a model by which files are written that a kill may
// leave behind.
func recipes(t testing.TB) []modelstoretest.Recipe {
	t.Helper()
	llama := tinymodel.RandomFolder("LlamaForCausalLM", tinyLlama(), 1)
	delete(llama.Files["tokenizer_config.json"].(map[string]any), "chat_template")
	folder := contents(t, llama, 2)
	list := []modelstoretest.Recipe{
		{Files: folder},
		{Files: folder, Quantize: "q8_0"},
		{Files: splitGGUF(t, ggufFile(t, 30_000, untalkative))},
		{Files: splitGGUF(t, ggufFile(t, 3000, untalkative)), Quantize: "q8_0"},
		{Files: map[string][]byte{"m.gguf": ggufFile(t, 7000, untalkative)}, Quantize: "q4_k_m"},
		{Files: folder, Adapters: contents(t, llama.RandomAdapter(2, 2, 1), 1)},
	}
	for i := range list {
		list[i].Weights = made(t, list[i]).ModelBlob.String()
	}
	return list
}

// made makes a model in a store of its own.
func made(t testing.TB, r modelstoretest.Recipe) *Model {
	t.Helper()
	s := openStore(t, stormDir(t))
	create(t, s, request(t, s, r, "x"))
	return get(t, s, "x")
}

// request uploads what a recipe needs, and returns the request.
func request(t testing.TB, s *Store, r modelstoretest.Recipe, n string) CreateRequest {
	t.Helper()
	req := CreateRequest{Name: name(t, n), Files: map[string]string{}, System: "new text", Quantization: r.Quantize, Quantize: fakeQuantizer(s)}
	for f, content := range r.Files {
		req.Files[f] = upload(t, s, content)
	}
	for f, content := range r.Adapters {
		if req.Adapters == nil {
			req.Adapters = make(map[string]string)
		}
		req.Adapters[f] = upload(t, s, content)
	}
	return req
}

func TestAnErrorAtAnyStepOfAConversionLeavesTheFolderAsItWas(t *testing.T) {
	for i, r := range recipes(t) {
		s := openStore(t, stormDir(t))
		createSmall(t, s, "x", 8)
		req := request(t, s, r, "x")
		before := files(t, s.dir)
		for n := 0; ; n++ {
			failed := failAt(s, n, func(string) error { return os.ErrDeadlineExceeded })
			err := s.Create(t.Context(), req, nil)
			s.blobs.fault, s.manifests.fault = nil, nil
			if *failed == "" {
				if err != nil || n < 10 {
					t.Errorf("recipe %d: only %d steps, %v", i, n, err)
				}
				break
			}
			if *failed == "manifests: sync folder" || *failed == "blobs: remove" {
				break // the name stands for the new model already
			}
			if err == nil {
				t.Errorf("recipe %d, step %d (%s): the error is lost", i, n, *failed)
			}
			if after := files(t, s.dir); len(after) != len(before) {
				t.Fatalf("recipe %d, step %d (%s): %d files instead of %d: %q", i, n, *failed, len(after), len(before), paths(t, s.dir))
			}
		}
		if len(s.held) != 0 {
			t.Errorf("recipe %d: blobs are still held", i)
		}
	}
}
