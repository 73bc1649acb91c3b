package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// file is a safetensors file with this header and so many bytes of data.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func TestALyingHeaderIsAnError(t *testing.T) {
	huge := file("", 8)
	binary.LittleEndian.PutUint64(huge, 1<<62)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"nothing":                {nil, "no safetensors file"},
		"a header behind it":     {huge, "is cut off or no safetensors file"},
		"no JSON":                {file("hello", 0), "no JSON object"},
		"a list":                 {file("[]", 0), "no JSON object"},
		"JSON without end":       {file(`{"a":`, 0), "can't be read"},
		"a text for a shape":     {file(`{"a":{"dtype":"F32","shape":"x","data_offsets":[0,4]}}`, 4), "can't be read at tensor"},
		"a negative shape":       {file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), "can't be read at tensor"},
		"no offsets":             {file(`{"a":{"dtype":"F32","shape":[1]}}`, 4), "has the offsets []"},
		"one offset":             {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}`, 4), "has the offsets [0]"},
		"negative offset":        {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, 4), "has the offsets"},
		"offsets turned round":   {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 4), "has the offsets"},
		"behind the end":         {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 4), "ends behind the end"},
		"far behind the end":     {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9223372036854775807]}}`, 4), "ends behind the end"},
		"overlap":                {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, 6), "overlaps"},
		"the same place":         {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), "overlaps"},
		"a hole":                 {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "bytes of no tensor"},
		"bytes behind":           {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 8), "bytes of no tensor"},
		"another size":           {file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}`, 4), "can't have 4 bytes"},
		"a shape that overflows": {file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0), "can't have 0 bytes"},
		"an unknown type":        {file(`{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}`, 4), `type "F7"`},
		"twice":                  {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "twice"},
	} {
		_, err := readEntries("m.safetensors", bytes.NewReader(c.file), int64(len(c.file)))
		var input *Error
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want ... %s ...", name, err, c.want)
		}
	}
	// A header may be large only as far as memory goes for it.
	if _, err := readEntries("m", sparse{maxHeader + 1}, 1<<40); err == nil || !strings.Contains(err.Error(), "the most is") {
		t.Errorf("a huge header: %v", err)
	}
}

// sparse is a huge file that says how long its header is.
type sparse struct{ header uint64 }

func (s sparse) ReadAt(p []byte, at int64) (int, error) {
	clear(p)
	if at == 0 {
		binary.LittleEndian.PutUint64(p, s.header)
	}
	return len(p), nil
}

func FuzzReadEntries(f *testing.F) {
	f.Add(file(`{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]},"a":{"dtype":"F16","shape":[1,1],"data_offsets":[0,2]}}`, 6))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := readEntries("m", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		sum := int64(0)
		for _, e := range list {
			if e.offset < 8 || e.size < 0 || e.offset+e.size > int64(len(b)) {
				t.Errorf("%+v lies outside", e)
			}
			sum += e.size
		}
		if n := int64(binary.LittleEndian.Uint64(b)); sum != int64(len(b))-8-n {
			t.Errorf("the tensors have %d bytes of %d", sum, int64(len(b))-8-n)
		}
	})
}
