package safetensors

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/ollama/ollama/convert"
)

// The most that a tokenizer may hold. The largest of today have 262 144 tokens and
// 580 604 merges, of which a few thousand are added ones.
const (
	mostTokens = 1 << 19
	mostMerges = 1 << 20
	mostAdded  = 1 << 16
)

// vocabulary is what a tokenizer.json holds. It is read piece by piece, and what is
// large in it at last: Ollama's convert decodes the whole file twice.
type vocabulary struct {
	large  bool // tokens and merges are read, else the other two
	tokens []vocabularyToken
	merges []string
	added  []addedToken
	pre    json.RawMessage // pre_tokenizer
}

type vocabularyToken struct {
	text     string
	id, kind int32
}

type addedToken struct {
	ID      int32  `json:"id"`
	Content string `json:"content"`
	Special bool   `json:"special"`
}

// The types of tokens, as GGUF numbers them.
const (
	normalToken      = 1
	controlToken     = 3
	userDefinedToken = 4
)

// readVocabulary reads what is small in tokenizer.json; nil: there is none.
func readVocabulary(fsys fs.FS) (*vocabulary, error) {
	v := &vocabulary{}
	err := v.readFile(fsys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return v, err
}

func (v *vocabulary) readFile(fsys fs.FS) error {
	f, err := fsys.Open("tokenizer.json")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := v.read(json.NewDecoder(f)); err != nil {
		var known *Error
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			return err
		} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = bad("it ends too early: download or copy it again")
		} else if !errors.As(err, &known) {
			err = bad("%v", err)
		}
		return bad("tokenizer.json can't be read: %v", err)
	}
	return nil
}

func (v *vocabulary) read(d *json.Decoder) error {
	return object(d, "the file", func(key string) (err error) {
		switch {
		case v.large != (key == "model"):
			return skip(d)
		case key == "added_tokens":
			return array(d, key, func() error {
				if len(v.added) == mostAdded {
					return bad("it adds more than %d tokens", mostAdded)
				}
				var t addedToken
				err := d.Decode(&t)
				v.added = append(v.added, t)
				return err
			})
		case key == "pre_tokenizer":
			if err = d.Decode(&v.pre); len(v.pre) > 1<<20 {
				return bad("its pre_tokenizer has %d bytes, the most is %d", len(v.pre), 1<<20)
			}
			return err
		case key == "model":
			return object(d, key, func(key string) error { return v.readModel(d, key) })
		default:
			return skip(d)
		}
	})
}

func (v *vocabulary) readModel(d *json.Decoder, key string) error {
	switch key {
	case "vocab":
		return object(d, key, func(text string) error {
			t := vocabularyToken{text: strings.Clone(text), kind: normalToken}
			if len(v.tokens) == mostTokens {
				return bad("it holds more than %d tokens", mostTokens)
			}
			err := d.Decode(&t.id)
			v.tokens = append(v.tokens, t)
			return err
		})
	case "merges":
		return array(d, key, func() error {
			if len(v.merges) == mostMerges {
				return bad("it holds more than %d merges", mostMerges)
			}
			merge, err := readMerge(d)
			v.merges = append(v.merges, merge)
			return err
		})
	default:
		return skip(d)
	}
}

// readMerge reads a merge: a text, or a list of two.
func readMerge(d *json.Decoder) (string, error) {
	t, err := d.Token()
	if err != nil {
		return "", err
	}
	if text, ok := t.(string); ok {
		return text, nil
	}
	if t != json.Delim('[') {
		return "", bad("a merge is neither a text nor a list of texts")
	}
	var parts []string
	for d.More() {
		var part string
		if err := d.Decode(&part); err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	_, err = d.Token()
	return strings.Join(parts, " "), err
}

// object reads an object, or null. visit reads the value of a key.
func object(d *json.Decoder, what string, visit func(key string) error) error {
	return within(d, what, '{', func() error {
		t, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		return visit(key)
	})
}

// array reads a list, or null. visit reads an element.
func array(d *json.Decoder, what string, visit func() error) error {
	return within(d, what, '[', visit)
}

func within(d *json.Decoder, what string, open json.Delim, visit func() error) error {
	t, err := d.Token()
	if err != nil || t == nil {
		return err
	}
	if t != open {
		return bad("%s should begin with %v, not with %.20q", what, open, fmt.Sprint(t))
	}
	for d.More() {
		if err := visit(); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// skip reads over a value, however large.
func skip(d *json.Decoder) error {
	for depth := 0; ; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// rest is tokenizer.json without what is large.
func (v *vocabulary) rest() ([]byte, error) {
	return json.Marshal(map[string]any{"added_tokens": v.added, "pre_tokenizer": v.pre, "model": map[string]any{}})
}

// fill reads into t what rest left out. size is what config.json says that the
// vocabulary has: it is filled up to that.
func (v *vocabulary) fill(fsys fs.FS, t *convert.Tokenizer, size int) error {
	own := t.Model == "gpt2" // else the tokens are those of tokenizer.model
	if own {
		t.Tokens, t.Scores, t.Types = nil, nil, nil // which are fill-ins
	}
	v.large = true
	if err := v.readFile(fsys); err != nil {
		return err
	}
	if len(v.merges) > 0 {
		t.Merges = v.merges
	}
	if !own {
		return nil
	}
	for _, a := range v.added {
		kind := int32(userDefinedToken)
		if a.Special {
			kind = controlToken
		}
		v.tokens = append(v.tokens, vocabularyToken{a.Content, a.ID, kind})
	}
	slices.SortStableFunc(v.tokens, func(a, b vocabularyToken) int { return cmp.Compare(a.id, b.id) })
	room := max(len(v.tokens), size)
	t.Tokens, t.Scores, t.Types = make([]string, 0, room), make([]float32, 0, room), make([]int32, 0, room)
	for i, one := range v.tokens {
		if i+1 < len(v.tokens) && v.tokens[i+1].id == one.id {
			continue // an added one counts
		}
		t.Tokens, t.Scores, t.Types = append(t.Tokens, one.text), append(t.Scores, float32(one.id)), append(t.Types, one.kind)
	}
	for i := 0; len(t.Tokens) < size; i++ {
		t.Tokens, t.Scores, t.Types = append(t.Tokens, fmt.Sprintf("[PAD%d]", i)), append(t.Scores, -1), append(t.Types, userDefinedToken)
	}
	v.tokens = nil
	return nil
}

// vocabularySize is what config.json says, where Ollama looks for it.
func vocabularySize(config map[string]any) int {
	text, _ := config["text_config"].(map[string]any)
	own, _ := config["vocab_size"].(float64)
	inner, _ := text["vocab_size"].(float64)
	return int(cmp.Or(own, inner))
}
