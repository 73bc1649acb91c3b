package llamaloader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"cllm/daemon"
	"cllm/llm"
	"cllm/llm/llama"
	"cllm/modelstore"
	"cllm/modelstore/gguf"
)

// split cuts a model in two as llama.cpp's gguf-split does: the first part has all
// pairs, and each says which it is of how many.
func split(t *testing.T, whole []byte) map[string][]byte {
	t.Helper()
	h, err := gguf.Read(bytes.NewReader(whole), int64(len(whole)), false)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	text := func(b []byte, s string) []byte { return append(le.AppendUint64(b, uint64(len(s))), s...) }
	info := bytes.Index(whole, text(nil, h.Tensors[0].Name)) // where the pairs end
	parts := make(map[string][]byte)
	half := len(h.Tensors) / 2
	for no, list := range [][]gguf.Tensor{h.Tensors[:half], h.Tensors[half:]} {
		head := le.AppendUint64([]byte("GGUF\x03\x00\x00\x00"), uint64(len(list)))
		if no == 0 {
			head = append(le.AppendUint64(head, uint64(len(h.Pairs)+3)), whole[24:info]...)
		} else {
			head = le.AppendUint64(head, 3)
		}
		head = le.AppendUint16(le.AppendUint32(text(head, "split.no"), 2), uint16(no))
		head = le.AppendUint16(le.AppendUint32(text(head, "split.count"), 2), 2)
		head = le.AppendUint32(le.AppendUint32(text(head, "split.tensors.count"), 5), uint32(len(h.Tensors)))
		begin, end := list[0].Offset, uint64(len(whole))-uint64(h.DataOffset)
		if no == 0 {
			end = h.Tensors[half].Offset
		}
		for _, x := range list {
			head = le.AppendUint32(text(head, x.Name), uint32(len(x.Shape)))
			for _, d := range x.Shape {
				head = le.AppendUint64(head, d)
			}
			head = le.AppendUint64(le.AppendUint32(head, x.Kind), x.Offset-begin)
		}
		head = append(head, make([]byte, (32-len(head)%32)%32)...)
		data := whole[uint64(h.DataOffset)+begin : uint64(h.DataOffset)+end]
		parts[fmt.Sprintf("m-%05d-of-00002.gguf", no+1)] = append(head, data...)
	}
	return parts
}

func TestAModelThatWasMergedSaysWhatTheWholeOneSays(t *testing.T) {
	whole, err := os.ReadFile(tiny(t))
	if err != nil {
		t.Fatal(err)
	}
	l := newLoader(t, Options{})
	s, err := modelstore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	answers := make(map[string]string)
	for name, files := range map[string]map[string][]byte{"whole": {"m.gguf": whole}, "merged": split(t, whole)} {
		n, err := modelstore.ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		req := modelstore.CreateRequest{Name: n, Files: map[string]string{}}
		for file, content := range files {
			d := modelstore.DigestOf(content)
			if err := s.WriteBlob(t.Context(), d, bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
			req.Files[file] = d.String()
		}
		if err := s.Create(t.Context(), req, nil); err != nil {
			t.Fatal(err)
		}
		m, err := s.Get(n)
		if err != nil {
			t.Fatal(err)
		}
		answers[name] = answer(t, l, m.ModelPath)
	}
	if answers["whole"] == "" || answers["merged"] != answers["whole"] {
		t.Errorf("the whole one says %q, the merged one %q", answers["whole"], answers["merged"])
	}
}

// answer is what a model says after a text when each token is the likeliest.
func answer(t *testing.T, l *Loader, path string) (text string) {
	t.Helper()
	m, err := l.Load(t.Context(), daemon.LoadSpec{ModelPath: path, Weights: path, Slots: 1, Threads: 1}, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer m.Engine.Close()
	tokens, pos := m.Vocab.Tokenize("the rain in the an", true), 0
	for range 16 {
		rows := make([]llm.Row, len(tokens))
		for i, token := range tokens {
			rows[i] = llm.Row{Token: token, Pos: llm.Pos(pos), Logits: i == len(tokens)-1}
			pos++
		}
		if err := m.Engine.Decode(rows); err != nil {
			t.Fatal(err)
		}
		logits, err := m.Engine.(*llama.Context).Logits(len(rows) - 1)
		if err != nil {
			t.Fatal(err)
		}
		best := 0
		for i, x := range logits {
			if x > logits[best] {
				best = i
			}
		}
		tokens = []llm.Token{llm.Token(best)}
		text += m.Vocab.Piece(tokens[0])
	}
	return text
}
