package modelstoretest

import (
	"fmt"
	"slices"
	"sync"
)

// History is what clients asked of a store and what they were told, and says what may
// be there now. Its methods may be called from many goroutines.
//
// Requests overlap, so it knows no single right state: a name may be as any request
// left it that no later one, begun after the first had ended, has overwritten.
type History struct {
	mu      sync.Mutex
	clock   int
	names   map[string][]*Change
	weights map[string]string // of each version that was ever asked for; "" for any
}

// NewHistory returns the history of an empty store.
func NewHistory() *History {
	return &History{names: map[string][]*Change{}, weights: map[string]string{}}
}

// anyVersion is what a copy makes: its source had one of many.
const anyVersion = "*"

// Change is a request that changes what one name stands for.
type Change struct {
	name       string
	version    string // "" deletes the name
	begin, end int
	open       bool // nobody knows yet whether it has happened
	done       bool // the client was told that it has
}

// Begin notes that a request is about to be sent. The version is the system text of the
// model that it makes, weights the digest of its weights or "".
func (h *History) Begin(name, version, weights string) *Change {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	c := &Change{name: name, version: version, begin: h.clock, open: true}
	h.names[name] = append(h.names[name], c)
	if version != "" && version != anyVersion {
		h.weights[version] = weights
	}
	return c
}

// Done notes that the client was told of success.
func (h *History) Done(c *Change) { h.close(c, true) }

// Failed notes that the client was told of a failure: nothing has changed.
func (h *History) Failed(c *Change) { h.close(c, false) }

func (h *History) close(c *Change, done bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	c.end, c.open, c.done = h.clock, false, done
	if !done {
		list := h.names[c.name]
		h.names[c.name] = slices.DeleteFunc(list, func(o *Change) bool { return o == c })
	}
}

// Check compares what is there, once the store is quiet or dead, with what may be
// there, and says what is wrong. Then it takes what is there for the beginning of what
// comes next.
func (h *History) Check(models map[string]Found) (wrong []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	for name, list := range h.names {
		now, there := models[name]
		if text := h.checkName(list, now, there); text != "" {
			wrong = append(wrong, fmt.Sprintf("%s: %s%s", name, text, describe(list)))
		}
	}
	for name := range models {
		if _, asked := h.names[name]; !asked {
			wrong = append(wrong, name+" is there, and nobody asked for it")
		}
	}
	for name := range h.names {
		h.names[name] = nil
		if now, there := models[name]; there {
			h.names[name] = []*Change{{name: name, version: now.System, end: h.clock, done: true}}
		}
	}
	return wrong
}

func (h *History) checkName(list []*Change, now Found, there bool) string {
	if there {
		weights, asked := h.weights[now.System]
		if !asked {
			return fmt.Sprintf("it is %q, which nobody asked for", now.System)
		}
		if weights != "" && weights != now.Weights {
			return fmt.Sprintf("%q has the weights %s instead of %s", now.System, now.Weights, weights)
		}
	}
	absent, present := h.mayBe(list)
	switch {
	case !there && !absent:
		return "it is lost"
	case there && !slices.Contains(present, now.System) && !slices.Contains(present, anyVersion):
		return fmt.Sprintf("it is %q, which was deleted or replaced", now.System)
	}
	return ""
}

// mayBe returns what a name may be: absent, or one of the versions.
func (h *History) mayBe(list []*Change) (absent bool, present []string) {
	absent = true
	for _, c := range list {
		if c.done {
			absent = false // unless a deletion counts
		}
	}
	for _, c := range list {
		overwritten := slices.ContainsFunc(list, func(o *Change) bool {
			return o.done && !c.open && o.begin > c.end
		})
		switch {
		case overwritten:
		case c.version == "":
			absent = true
		default:
			present = append(present, c.version)
		}
	}
	return absent, present
}

// describe lists the changes of a name, for a failed test.
func describe(list []*Change) (text string) {
	for _, c := range list {
		what, end := fmt.Sprintf("made %q", c.version), fmt.Sprint(c.end)
		if c.version == "" {
			what = "deleted"
		}
		if c.open {
			end = "?"
		}
		text += fmt.Sprintf("\n    %s from %d to %s", what, c.begin, end)
	}
	return text
}
