//go:build cgo

package llama

// #cgo pkg-config: llama-schema
// #include "shim.h"
// #include <stdlib.h>
import "C"

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unsafe"
)

// The bounds of a schema.
const (
	maxSchema = 512 << 10 // bytes
	maxDepth  = 128       // objects and arrays in each other
	maxKeys   = 2000      // of one object
	maxValues = 10000     // of one array
)

// SchemaToGrammar makes a grammar, in GBNF, of a JSON schema: a text fits the grammar
// when it is JSON that fits the schema, as far as llama.cpp's converter knows JSON
// Schema. The error wraps ErrBadSchema where the schema is not valid, refers to what
// is not there, or is too large or too deep.
func SchemaToGrammar(schema []byte) (string, error) {
	if err := checkSchema(schema); err != nil {
		return "", &Error{Op: "schema", Class: ErrBadSchema, Detail: err.Error()}
	}
	start()
	var cerr C.cllm_error
	var size C.size_t
	text := C.cllm_schema_to_grammar((*C.char)(unsafe.Pointer(&schema[0])), C.size_t(len(schema)), &size, &cerr)
	if err := failure("schema", &cerr, ErrBadSchema); err != nil {
		return "", err
	}
	defer C.free(unsafe.Pointer(text))
	return C.GoStringN(text, C.int(size)), nil
}

// checkSchema checks what the C side has no bounds for: it looks for each key among
// all those before it, and copies and frees values by calling itself.
func checkSchema(schema []byte) error {
	if len(schema) > maxSchema {
		return fmt.Errorf("it has %d bytes, %d are allowed", len(schema), maxSchema)
	}
	if !json.Valid(schema) {
		return fmt.Errorf("it is not valid JSON")
	}
	d := json.NewDecoder(bytes.NewReader(schema))
	d.UseNumber()
	var open []brackets
	for {
		token, err := d.Token()
		if err != nil { // the end: it is valid
			return nil
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			open = open[:len(open)-1]
			continue
		}
		if n := len(open); n > 0 {
			if err := open[n-1].add(); err != nil {
				return err
			}
		}
		if token == json.Delim('{') || token == json.Delim('[') {
			open = append(open, brackets{object: token == json.Delim('{')})
		}
		if len(open) > maxDepth {
			return fmt.Errorf("it is more than %d deep", maxDepth)
		}
	}
}

// brackets are an object or array that is being read.
type brackets struct {
	object bool
	tokens int // directly in it; a key and its value are two
}

func (b *brackets) add() error {
	switch b.tokens++; {
	case b.object && b.tokens > 2*maxKeys:
		return fmt.Errorf("an object in it has more than %d keys", maxKeys)
	case b.tokens > maxValues:
		return fmt.Errorf("an array in it has more than %d values", maxValues)
	}
	return nil
}
