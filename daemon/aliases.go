package daemon

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"cllm/modelstore"
)

// alias is another name for a model, or for all names that begin with it.
type alias struct {
	Alias  string `json:"alias"`
	Target string `json:"target"`
	Prefix bool   `json:"prefix_matching,omitempty"`
}

// aliases are the aliases of this machine. They are kept in Ollama's server.json,
// beside what others keep there.
type aliases struct {
	path string // "": they are kept as long as the daemon runs

	mu  sync.Mutex
	all map[aliasKey]alias
	err error // why the file can't be read, and so not be written
}

// aliasKey is what there is one alias of.
type aliasKey struct {
	name   string // in lower case
	prefix bool
}

func (a alias) key() aliasKey { return aliasKey{strings.ToLower(a.Alias), a.Prefix} }

// aliasesVersion is the form of the file.
const aliasesVersion = 1

var errAliasCycle = errors.New("alias cycle detected")

// newAliases reads the aliases of a file. One that can't be read has no aliases,
// and stays as it is.
func newAliases(path string) *aliases {
	a := &aliases{path: path, all: map[aliasKey]alias{}}
	kept, err := a.read()
	if err == nil {
		err = a.take(kept)
	}
	if err != nil {
		a.err = fmt.Errorf("the aliases in %s can't be read: %w: correct or remove the file and start again", path, err)
	}
	return a
}

// read returns what the file holds.
func (a *aliases) read() (map[string]json.RawMessage, error) {
	kept := map[string]json.RawMessage{}
	if a.path == "" {
		return kept, nil
	}
	data, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	return kept, err
}

// take takes over the aliases of the file, without those that lead nowhere.
func (a *aliases) take(kept map[string]json.RawMessage) error {
	var version int
	if raw, ok := kept["version"]; ok {
		if err := json.Unmarshal(raw, &version); err != nil {
			return err
		}
	}
	if version != 0 && version != aliasesVersion {
		return fmt.Errorf("its version %d is not known", version)
	}
	var list []alias
	if raw, ok := kept["aliases"]; ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
	}
	for _, one := range list {
		if one, err := one.checked(); err == nil {
			a.all[one.key()] = one
		}
	}
	return nil
}

// save writes the file. What else is in it stays.
func (a *aliases) save() error {
	if a.path == "" {
		return nil
	}
	kept, err := a.read()
	if err != nil {
		return err
	}
	for name, value := range map[string]any{"version": aliasesVersion, "aliases": a.sorted()} {
		if kept[name], err = json.Marshal(value); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(a.path, append(data, '\n'))
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".cllm-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails when it was renamed
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// sorted is never nil.
func (a *aliases) sorted() []alias {
	list := slices.AppendSeq([]alias{}, maps.Values(a.all))
	slices.SortFunc(list, func(x, y alias) int {
		return cmp.Or(strings.Compare(x.Alias, y.Alias), strings.Compare(x.Target, y.Target))
	})
	return list
}

// list returns all aliases by name.
func (a *aliases) list() ([]alias, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sorted(), a.err
}

// set adds an alias or replaces it.
func (a *aliases) set(one alias) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	old, replaced := a.all[one.key()]
	a.all[one.key()] = one
	_, err := a.follow(one.Target)
	if err == nil {
		err = a.save()
	}
	if err != nil { // as if nothing had been
		delete(a.all, one.key())
		if replaced {
			a.all[one.key()] = old
		}
	}
	return err
}

// remove removes an alias, exact ones first, and reports whether there was one.
func (a *aliases) remove(name string) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return false, a.err
	}
	for _, prefix := range []bool{false, true} {
		key := alias{Alias: shown(name), Prefix: prefix}.key()
		old, ok := a.all[key]
		if !ok {
			continue
		}
		delete(a.all, key)
		err := a.save()
		if err != nil {
			a.all[key] = old
		}
		return true, err
	}
	return false, nil
}

// target returns what a name stands for, or "" when it is no alias.
func (a *aliases) target(name string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.all) == 0 {
		return "", nil
	}
	name = shown(name)
	if one, ok := a.all[aliasKey{name: strings.ToLower(name)}]; ok {
		return a.follow(one.Target)
	}
	longest := alias{}
	for key, one := range a.all {
		if key.prefix && len(one.Alias) > len(longest.Alias) && strings.HasPrefix(strings.ToLower(name), key.name) {
			longest = one
		}
	}
	if longest.Alias == "" {
		return "", nil
	}
	return a.follow(longest.Target)
}

// follow returns the end of a chain of aliases.
func (a *aliases) follow(name string) (string, error) {
	for range len(a.all) + 1 {
		next, ok := a.all[aliasKey{name: strings.ToLower(shown(name))}]
		if !ok {
			return name, nil
		}
		name = next.Target
	}
	return "", errAliasCycle
}

// checked returns the alias with its names in the form in which they are shown.
// Its errors are texts of Ollama's.
func (a alias) checked() (alias, error) {
	a.Alias, a.Target = strings.TrimSpace(a.Alias), strings.TrimSpace(a.Target)
	if a.Alias == "" || a.Target == "" {
		return a, errors.New("alias and target are required")
	}
	if _, err := modelstore.ParseName(a.Target); err != nil {
		return a, fmt.Errorf("target %q is invalid", a.Target)
	}
	if _, err := modelstore.ParseName(a.Alias); err != nil && !a.Prefix {
		return a, fmt.Errorf("alias %q is invalid", a.Alias)
	}
	a.Alias, a.Target = shown(a.Alias), shown(a.Target)
	if !a.Prefix && strings.EqualFold(a.Alias, a.Target) {
		return a, errors.New("alias cannot point to itself")
	}
	return a, nil
}

// shown is the shortest form of a name, without ":latest". What is no name stays.
func shown(name string) string {
	n, err := modelstore.ParseName(name)
	if err != nil {
		return name
	}
	short := n.DisplayShortest()
	if strings.EqualFold(n.Tag, "latest") {
		short = short[:strings.LastIndex(short, ":")]
	}
	return short
}
