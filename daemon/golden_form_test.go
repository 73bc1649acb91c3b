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
	texts    *strings.Replacer
	marks    map[string]string
	count    map[string]int
	sequence int64 // the number of the last event in a stream of numbered ones
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
	anID    = regexp.MustCompile(`^(call|chatcmpl|cmpl|resp|msg|fc|rs|srvtoolu|toolu|item|req)[_-][0-9A-Za-z_-]+$`)
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
			return moment(field, v)
		}
		return f.text(v)
	}
	return v
}

// moment is the mark of a time. When something expires is told to the minute.
func moment(field, v string) string {
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		return v
	}
	if field != "expires_at" {
		return "<time>"
	}
	if in := time.Until(t).Round(time.Minute); in < 100*365*24*time.Hour {
		return fmt.Sprintf("<in %s>", in)
	}
	return "<never>"
}

func (f *goldenForm) number(field string, v json.Number) any {
	n, err := v.Int64()
	if field == "sequence_number" && err == nil && (n == f.sequence+1) {
		f.sequence = n
		return "<next>"
	}
	if p, err := v.Float64(); field == "logprob" && err == nil && p <= 0 { // its last digits are the CPU's
		return "<log-probability>"
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

// events writes a stream, an event at a time.
func (f *goldenForm) events(body, end, prefix string) string {
	f.sequence = -1
	var b strings.Builder
	for event := range strings.SplitSeq(strings.TrimSuffix(body, end), end) {
		before, data := "", event
		if i := strings.Index("\n"+event, "\n"+prefix); i >= 0 {
			before, data = event[:i+len(prefix)], event[i+len(prefix):]
		}
		b.WriteString(before + f.json(data, "") + end)
	}
	return b.String()
}

// json writes a JSON text with its keys in order. Other texts stay texts.
func (f *goldenForm) json(text, indent string) string {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil || dec.More() {
		return f.text(text)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(f.value("", v)); err != nil {
		return f.text(text)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func TestAGoldenFormKeepsWhatHasTheWrongShape(t *testing.T) {
	f := &goldenForm{texts: strings.NewReplacer("/tmp/m", modelsMark), marks: map[string]string{}, count: map[string]int{}}
	inTenMinutes := time.Now().Add(10 * time.Minute).Format(time.RFC3339Nano)
	for in, want := range map[string]string{
		`{"created_at":"2026-01-02T03:04:05.6Z"}`:     `{"created_at":"<time>"}`,
		`{"expires_at":"` + inTenMinutes + `"}`:       `{"expires_at":"<in 10m0s>"}`,
		`{"expires_at":"2318-01-01T00:00:00Z"}`:       `{"expires_at":"<never>"}`,
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

func TestAGoldenFormShowsEachEvent(t *testing.T) {
	for _, c := range []struct{ kind, in, want string }{
		{
			"application/x-ndjson",
			"{\"b\":1,\"a\":\"<\"}\n{}\n",
			"{\"a\":\"<\",\"b\":1}\n{}\n",
		},
		{
			"text/event-stream; charset=utf-8",
			"event: x\ndata: {\"sequence_number\":0}\n\ndata: {\"sequence_number\":1}\n\ndata: {\"sequence_number\":3}\n\ndata: [DONE]\n\n",
			"event: x\ndata: {\"sequence_number\":\"<next>\"}\n\ndata: {\"sequence_number\":\"<next>\"}\n\ndata: {\"sequence_number\":3}\n\ndata: [DONE]\n\n",
		},
	} {
		f := &goldenForm{texts: strings.NewReplacer(), marks: map[string]string{}, count: map[string]int{}}
		if got := f.body(c.kind, c.in); got != c.want {
			t.Errorf("%q is kept as %q, want %q", c.in, got, c.want)
		}
	}
}
