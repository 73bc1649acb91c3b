package modelstore

import (
	"os"
	"path"
	"strings"

	"github.com/ollama/ollama/types/model"
)

// Name is a model's name: host, namespace, model and tag. It is comparable; the
// names that a Store returns have the default protocol.
type Name = model.Name

// ParseName reads [host/][namespace/]model[:tag] and fills in Ollama's defaults.
// A Name that it returns is valid. The error is an *InvalidNameError.
func ParseName(s string) (Name, error) {
	n := model.ParseName(s)
	if !n.IsValid() {
		return Name{}, &InvalidNameError{Text: s}
	}
	return n, nil
}

// modelPath is the path of the name's manifest in the folder of manifests.
func modelPath(n Name) string { return path.Join(n.Host, n.Namespace, n.Model, n.Tag) }

// nameOf is the name whose manifest is at p; not valid when p is no such path.
func nameOf(p string) Name {
	parts := strings.Split(p, "/")
	if len(parts) != 4 {
		return Name{}
	}
	return canonical(Name{Host: parts[0], Namespace: parts[1], Model: parts[2], Tag: parts[3]})
}

// canonical gives n the protocol that names on disk have: the default.
func canonical(n Name) Name {
	n.ProtocolScheme = model.DefaultName().ProtocolScheme
	return n
}

// valid returns n as names on disk are. The error is an *InvalidNameError.
func valid(n Name) (Name, error) {
	if !n.IsValid() {
		return Name{}, &InvalidNameError{Text: n.String()}
	}
	return canonical(n), nil
}

// Resolve returns the name as the store has it, whatever the case of n. A name that
// is not there takes the case of those parts that other names share with it. Get,
// Copy, Delete and Create resolve by themselves.
func (s *Store) Resolve(n Name) (Name, error) {
	n, err := valid(n)
	if err != nil {
		return Name{}, err
	}
	root, err := s.manifests.open()
	if isNotExist(err) {
		return n, nil
	} else if err != nil {
		return Name{}, err
	}
	defer root.Close()
	return s.resolve(root, n)
}

func (s *Store) resolve(root *os.Root, n Name) (Name, error) {
	if _, err := regular(root, modelPath(n)); err == nil {
		return n, nil
	}
	there, _, err := s.walk(root)
	if err != nil {
		return Name{}, err
	}
	return fold(n, there), nil
}

// fold returns the name of those there that n is but for case. When there is none,
// it returns n with each part written as in one that is there.
func fold(n Name, there []found) Name {
	for _, f := range there {
		if f.name.EqualFold(n) {
			return f.name
		}
	}
	part := func(of func(*Name) *string) {
		own, found := of(&n), ""
		for _, f := range there {
			switch p := *of(&f.name); {
			case p == *own:
				return
			case found == "" && strings.EqualFold(p, *own):
				found = p
			}
		}
		if found != "" {
			*own = found
		}
	}
	part(func(n *Name) *string { return &n.Host })
	part(func(n *Name) *string { return &n.Namespace })
	part(func(n *Name) *string { return &n.Model })
	part(func(n *Name) *string { return &n.Tag })
	return n
}
