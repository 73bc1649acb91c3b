package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"slices"
	"strings"
)

// Error says what is wrong with files that came from outside.
type Error struct{ reason string }

func (e *Error) Error() string { return e.reason }

func bad(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// The most that one file may hold. Real headers stay below 1 MB: large models are cut
// into many files.
const (
	maxHeader = 16 << 20 // bytes
	maxTensor = 1 << 17
	maxDims   = 4 // of GGUF
)

// entry describes a tensor in a safetensors file.
type entry struct {
	name   string
	dtype  string
	shape  []uint64
	offset int64 // in the file
	size   int64
}

// width is the bytes of an element; 0 for types that are not known.
func width(dtype string) uint64 {
	switch dtype {
	case "F64", "I64", "U64":
		return 8
	case "F32", "I32", "U32":
		return 4
	case "F16", "BF16", "I16", "U16":
		return 2
	case "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0":
		return 1
	}
	return 0
}

// readEntries reads the header of a safetensors file, in order of the names, as
// Ollama has it. It refuses a file whose tensors overlap, leave holes or end behind it.
func readEntries(file string, r io.ReaderAt, size int64) ([]entry, error) {
	var n [8]byte
	if size < int64(len(n)) {
		return nil, bad("%s is no safetensors file: it has %d bytes; download or copy it again (git-lfs leaves small pointers in place of files)", file, size)
	}
	if _, err := r.ReadAt(n[:], 0); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint64(n[:])
	switch {
	case length > uint64(size-8):
		return nil, bad("%s is cut off or no safetensors file: its header would have %d bytes, the file has %d; download or copy it again", file, length, size)
	case length > maxHeader:
		return nil, bad("%s has a header of %d bytes, the most is %d", file, length, maxHeader)
	}
	raw := make([]byte, length)
	if _, err := r.ReadAt(raw, 8); err != nil {
		return nil, err
	}
	list, err := parseEntries(file, raw)
	if err != nil {
		return nil, err
	}
	data := 8 + int64(length)
	if err := place(file, list, data, size-data); err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// parseEntries reads the JSON. Offsets count from the data's begin still.
func parseEntries(file string, raw []byte) ([]entry, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, bad("%s is no safetensors file: its header is no JSON object", file)
	}
	var list []entry
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, bad("%s: its header is no valid JSON: %v", file, err)
		}
		name, _ := t.(string)
		var e struct {
			Type    string   `json:"dtype"`
			Shape   []uint64 `json:"shape"`
			Offsets []int64  `json:"data_offsets"`
		}
		if name == "__metadata__" {
			var ignored json.RawMessage
			err = d.Decode(&ignored)
		} else {
			err = d.Decode(&e)
		}
		switch {
		case err != nil:
			return nil, bad("%s: its header can't be read at tensor %.80q: %v", file, name, err)
		case name == "__metadata__":
			continue
		case seen[name]:
			return nil, bad("%s holds the tensor %.80q twice", file, name)
		case len(e.Offsets) != 2 || e.Offsets[0] < 0 || e.Offsets[1] < e.Offsets[0]:
			return nil, bad("%s: tensor %.80q has the offsets %v, which can't be", file, name, e.Offsets)
		case len(list) == maxTensor:
			return nil, bad("%s holds more than %d tensors", file, maxTensor)
		}
		seen[name] = true
		list = append(list, entry{name: name, dtype: e.Type, shape: e.Shape, offset: e.Offsets[0], size: e.Offsets[1] - e.Offsets[0]})
	}
	if _, err := d.Token(); err != nil {
		return nil, bad("%s: its header is no valid JSON: %v", file, err)
	}
	return list, nil
}

// place checks that the tensors fill the data without holes, and moves their offsets
// to where the data begins in the file.
func place(file string, list []entry, data, size int64) error {
	slices.SortStableFunc(list, func(a, b entry) int { return int(min(max(a.offset-b.offset, -1), 1)) })
	end := int64(0)
	for i := range list {
		e := &list[i]
		switch {
		case e.offset < end:
			return bad("%s: tensor %.80q overlaps the one before it", file, e.name)
		case e.offset > end:
			return bad("%s: before tensor %.80q are bytes of no tensor", file, e.name)
		case e.size > size-e.offset:
			return bad("%s is cut off: tensor %.80q ends behind the end of the file; download or copy it again", file, e.name)
		}
		end = e.offset + e.size
		if n, ok := e.bytes(); !ok || n != uint64(e.size) {
			return bad("%s: tensor %.80q of type %.20q and shape %v can't have %d bytes", file, e.name, e.dtype, e.shape, e.size)
		}
		e.offset += data
	}
	if end != size {
		return bad("%s: behind its tensors are %d bytes of no tensor", file, size-end)
	}
	return nil
}

// bytes is what type and shape say that the tensor takes.
func (e entry) bytes() (n uint64, ok bool) {
	n = width(e.dtype)
	if n == 0 {
		return 0, false
	}
	for _, d := range e.shape {
		var hi uint64
		if hi, n = bits.Mul64(n, d); hi != 0 {
			return 0, false
		}
	}
	return n, true
}

// load describes the tensors of all safetensors files, by the names that rename gives
// them.
func (s *source) load(rename func(string) string) ([]*tensor, error) {
	files, err := fs.Glob(s.fs, "*.safetensors")
	if err != nil {
		return nil, err
	}
	var list []*tensor
	names := make(map[string]bool)
	for _, file := range files {
		entries, err := s.entries(file)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := rename(e.name)
			switch {
			case len(e.shape) == 0:
				return nil, bad("%s: tensor %.80q is a single number: weights that bitsandbytes quantized can't be converted; take the original ones", file, e.name)
			case len(e.shape) > 5: // converters make less of those with one more
				return nil, bad("%s: tensor %.80q has %d dimensions", file, e.name, len(e.shape))
			case names[name]:
				return nil, bad("duplicate tensor name '%s' was found for this model", name)
			case len(list) == maxTensor:
				return nil, bad("the files hold more than %d tensors", maxTensor)
			}
			names[name] = true
			list = append(list, &tensor{src: s, file: file, from: e, name: name, shape: e.shape})
		}
	}
	if len(list) == 0 {
		return nil, bad("the safetensors files hold no tensors")
	}
	return list, nil
}

func (s *source) entries(file string) ([]entry, error) {
	f, err := s.open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readEntries(file, f, stat.Size())
}
