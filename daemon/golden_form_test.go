package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// modelsMark stands for the model folder.
const modelsMark = "<models>"

// goldenForm writes answers in the form in which they are kept. The same id or
// digest has the same mark in all answers of a case.
type goldenForm struct {
	texts *strings.Replacer
	marks map[string]string
	count map[string]int
	// sequence is the number of the last event in a stream of numbered ones.
	sequence int64
}

func newGoldenForm(a *testAPI) *goldenForm {
	return &goldenForm{
		texts: strings.NewReplacer(a.opts.Models, modelsMark, a.Addr().String(), "<address>"),
		marks: map[string]string{},
		count: map[string]int{},
	}
}

var (
	// anID is an id that the daemon makes up. What is before the last "_" or "-" says of what.
	anID    = regexp.MustCompile(`\b(call|chatcmpl|cmpl|resp|msg|fc|rs|srvtoolu|toolu|req)[_-][0-9A-Za-z_-]+\b`)
	aDigest = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	aTime   = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)
)

// text replaces what differs between runs inside of a text.
func (f *goldenForm) text(s string) string {
	s = f.texts.Replace(s)
	s = aDigest.ReplaceAllStringFunc(s, func(d string) string { return f.mark("digest", d) })
	return anID.ReplaceAllStringFunc(s, func(id string) string {
		return f.mark(anID.FindStringSubmatch(id)[1], id)
	})
}

// mark returns the mark of a value: the first is "<kind 1>".
func (f *goldenForm) mark(kind, value string) string {
	m, ok := f.marks[value]
	if !ok {
		f.count[kind]++
		m = fmt.Sprintf("<%s %d>", kind, f.count[kind])
		f.marks[value] = m
	}
	return m
}

// value replaces what differs between runs in a field. A value that has not the
// shape that its field shall have stays as it is, and is seen.
func (f *goldenForm) value(field string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) { // in order: marks are counted
			v[name] = f.value(name, v[name])
		}
	case []any:
		for i, inner := range v {
			v[i] = f.value(field, inner)
		}
	case json.Number:
		return f.number(field, v)
	case string:
		if strings.HasSuffix(field, "_at") && aTime.MatchString(v) && !strings.HasPrefix(v, "0001") {
			return "<time>"
		}
		return f.text(v)
	}
	return v
}

func (f *goldenForm) number(field string, v json.Number) any {
	n, err := v.Int64()
	if field == "sequence_number" && err == nil && (n == f.sequence+1 || n == 0 && f.sequence == 0) {
		f.sequence = n
		return "<next>"
	}
	switch {
	case err != nil || n <= 0:
	case strings.HasSuffix(field, "_duration"):
		return "<nanoseconds>"
	case field == "created" || strings.HasSuffix(field, "_at"):
		if since := time.Since(time.Unix(n, 0)); since.Abs() < 24*time.Hour {
			return "<unix time>"
		}
	}
	return v
}

// body writes a body by its content type.
func (f *goldenForm) body(contentType, body string) string {
	kind, _, _ := strings.Cut(contentType, ";")
	switch kind {
	case "application/json":
		return f.json(body, "  ")
	case "application/x-ndjson":
		return f.events(body, "\n", "")
	case "text/event-stream":
		return f.events(body, "\n\n", "data: ")
	}
	return f.text(body)
}

// events writes a stream. Pieces that follow one another are written as one: how
// many tokens are in a piece depends on how fast the client reads.
func (f *goldenForm) events(body, end, prefix string) string {
	var b strings.Builder
	var last any // written with the next one that is not its continuation
	var head string
	flush := func() {
		if last != nil {
			b.WriteString(head + prefix + f.write(last, "") + end)
		}
		last = nil
	}
	f.sequence = 0
	for event := range strings.SplitSeq(strings.TrimSuffix(body, end), end) {
		before, data, found := "", event, true
		if prefix != "" {
			before, data, found = strings.Cut("\n"+event, "\n"+prefix)
			before = strings.TrimPrefix(before+"\n", "\n")
		}
		v, ok := parseJSON(data)
		if !found || !ok {
			flush()
			b.WriteString(f.text(event) + end)
			continue
		}
		v = f.value("", v)
		if joined, ok := join("", last, v); ok && last != nil && head == before {
			last = joined
			continue
		}
		flush()
		last, head = v, before
	}
	flush()
	return b.String()
}

// pieces are the fields in which a piece of an answer is sent.
var pieces = []string{"response", "content", "thinking", "reasoning", "text", "delta", "partial_json", "refusal"}

// piecesOfLists are lists with an entry for each token.
var piecesOfLists = []string{"logprobs", "content", "tokens", "token_logprobs", "top_logprobs", "text_offset"}

// join returns two events as one if the second continues the first: all fields are
// the same, except that pieces go on, and so do lists of log-probabilities.
func join(field string, a, b any) (any, bool) {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || !slices.Equal(slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b))) {
			return nil, false
		}
		all := map[string]any{}
		for name := range a {
			if all[name], ok = join(name, a[name], b[name]); !ok {
				return nil, false
			}
		}
		return all, true
	case []any:
		b, ok := b.([]any)
		if !ok {
			return nil, false
		}
		if slices.Contains(piecesOfLists, field) {
			return append(slices.Clone(a), b...), true
		}
		if len(a) != len(b) {
			return nil, false
		}
		all := make([]any, len(a))
		for i := range a {
			if all[i], ok = join(field, a[i], b[i]); !ok {
				return nil, false
			}
		}
		return all, true
	case string:
		if b, ok := b.(string); ok && slices.Contains(pieces, field) && a != "" && b != "" {
			return a + b, true
		}
	}
	return a, a == b
}

// json writes a JSON text with its keys in order. Other texts stay texts.
func (f *goldenForm) json(text, indent string) string {
	v, ok := parseJSON(text)
	if !ok {
		return f.text(text)
	}
	return f.write(f.value("", v), indent)
}

func parseJSON(text string) (any, bool) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	return v, err == nil && !dec.More()
}

func (f *goldenForm) write(v any, indent string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return err.Error() // of what was JSON: can't be
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func TestAGoldenFormKeepsWhatHasTheWrongShape(t *testing.T) {
	f := &goldenForm{texts: strings.NewReplacer("/tmp/m", modelsMark), marks: map[string]string{}, count: map[string]int{}}
	for in, want := range map[string]string{
		`{"created_at":"2026-01-02T03:04:05.6Z"}`:     `{"created_at":"<time>"}`,
		`{"created_at":"yesterday"}`:                  `{"created_at":"yesterday"}`,
		`{"modified_at":"0001-01-01T00:00:00Z"}`:      `{"modified_at":"0001-01-01T00:00:00Z"}`,
		`{"load_duration":7,"eval_duration":0}`:       `{"eval_duration":0,"load_duration":"<nanoseconds>"}`,
		`{"total_duration":-7}`:                       `{"total_duration":-7}`,
		`{"created":12}`:                              `{"created":12}`,
		`{"id":"call_a","x":["call_a"]}`:              `{"id":"<call 1>","x":["<call 1>"]}`,
		`{"id":""}`:                                   `{"id":""}`,
		`{"modelfile":"FROM /tmp/m/blobs/sha256-12"}`: `{"modelfile":"FROM <models>/blobs/sha256-12"}`,
		`not <JSON>`:                                  `not <JSON>`,
		`{} {}`:                                       `{} {}`,
	} {
		if got := f.json(in, ""); got != want {
			t.Errorf("%s is kept as %s, want %s", in, got, want)
		}
	}
}

func TestAGoldenFormJoinsThePiecesOfAStream(t *testing.T) {
	for _, c := range []struct{ kind, in, want string }{
		{
			"application/x-ndjson",
			`{"response":"a","done":false}` + "\n" + `{"response":"b","done":false}` + "\n" + `{"response":"","done":true}` + "\n",
			`{"done":false,"response":"ab"}` + "\n" + `{"done":true,"response":""}` + "\n",
		},
		{
			"text/event-stream",
			"event: x\ndata: {\"delta\":\"a\",\"sequence_number\":1}\n\nevent: x\ndata: {\"delta\":\"b\",\"sequence_number\":2}\n\n" +
				"event: y\ndata: {\"delta\":\"c\",\"sequence_number\":2}\n\ndata: [DONE]\n\n",
			"event: x\ndata: {\"delta\":\"ab\",\"sequence_number\":\"<next>\"}\n\nevent: y\ndata: {\"delta\":\"c\",\"sequence_number\":2}\n\ndata: [DONE]\n\n",
		},
	} {
		f := &goldenForm{texts: strings.NewReplacer(), marks: map[string]string{}, count: map[string]int{}}
		if got := f.body(c.kind, c.in); got != c.want {
			t.Errorf("%q is kept as %q, want %q", c.in, got, c.want)
		}
	}
}
