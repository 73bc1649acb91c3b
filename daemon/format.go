package daemon

import (
	"encoding/json"
	"net/http"
	"sync"

	"cllm/llm/gbnf"
)

// jsonText is the grammar of the format "json": one object. White space and numbers
// are bounded, so that a model can't write nothing but that for ever, and every
// number fits into a float64.
const jsonText = `
root    ::= object
object  ::= "{" space (member ("," space member)*)? "}"
member  ::= string space ":" space value
array   ::= "[" space (value ("," space value)*)? "]"
value   ::= (object | array | string | number | "true" | "false" | "null") space
string  ::= "\"" ([^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number  ::= "-"? ("0" | [1-9] [0-9]{0,18}) ("." [0-9]{1,20})? ([eE] [-+]? [0-9]{1,2})?
space   ::= " "? | "\n"{1,2} [ \t]{0,40}
`

var jsonGrammar = sync.OnceValues(func() (*gbnf.Grammar, error) { return gbnf.Parse(jsonText) })

// formats makes grammars of formats and keeps those of the last schemas: programs ask
// for the same one again and again.
type formats struct {
	convert func(schema []byte) (gbnf string, err error)

	mu    sync.Mutex
	known map[string]*gbnf.Grammar // by schema
	size  int                      // bytes of what is known
}

// maxFormats is how many bytes of grammars are kept.
const maxFormats = 16 << 20

// grammar returns the grammar of a request's format; nil where anything goes.
func (d *Daemon) grammar(format json.RawMessage) (*gbnf.Grammar, error) {
	switch f := string(format); {
	case f == "" || f == "null" || f == `""`:
		return nil, nil
	case f == `"json"`:
		return jsonGrammar()
	case f[0] != '{':
		return nil, errorf(http.StatusInternalServerError, "invalid format: %q; expected \"json\" or a valid JSON Schema object", f)
	}
	g, err := d.formats.grammar(string(format))
	if err != nil {
		d.log.Warn("a request's schema is refused", "error", err)
		return nil, newError(http.StatusInternalServerError, "invalid JSON schema in format")
	}
	return g, nil
}

func (f *formats) grammar(schema string) (*gbnf.Grammar, error) {
	f.mu.Lock()
	g := f.known[schema]
	f.mu.Unlock()
	if g != nil {
		return g, nil
	}
	text, err := f.convert([]byte(schema))
	if err != nil {
		return nil, err
	}
	if g, err = gbnf.Parse(text); err != nil {
		return nil, err
	}
	if _, err = g.Match(nil); err != nil { // it can't even begin
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	size := len(schema) + g.Size()
	if f.known == nil || f.size+size > maxFormats {
		f.known, f.size = make(map[string]*gbnf.Grammar), 0
	}
	if _, ok := f.known[schema]; !ok && size <= maxFormats {
		f.known[schema] = g
		f.size += size
	}
	return g, nil
}
