package llama

import (
	"errors"
	"fmt"
)

// The classes of errors that a caller may act on, beside those of package llm.
var (
	// ErrBadModel: the file is no model that llama.cpp can run. Trying again won't help.
	ErrBadModel = errors.New("not a usable model file")
	// ErrNoMemory: something did not fit into memory, the machine's or a device's.
	ErrNoMemory = errors.New("not enough memory")
	// ErrBadSchema: the text is no JSON schema, or one that no grammar is made of.
	ErrBadSchema = errors.New("not a usable JSON schema")
	// ErrTooLong: a text has more tokens than the context can take at once.
	ErrTooLong = errors.New("the input is too long")
)

// Error is a failed call of llama.cpp.
type Error struct {
	Op     string // what was tried: "decode", "load model"
	Code   int    // llama.cpp's return code; 0 where the call has none
	Detail string // llama.cpp's own words; may be empty
	Class  error  // what a caller decides by; may be nil
}

func (e *Error) Error() string {
	s := e.Op
	if e.Class != nil {
		s += ": " + e.Class.Error()
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Code != 0 {
		s += fmt.Sprintf(" (code %d)", e.Code)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Class }
