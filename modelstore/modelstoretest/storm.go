package modelstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
)

// Storm is many clients that change the same names of a store at once.
type Storm struct {
	Names   []string          // that models are made under
	Pulls   map[string]Found  // names in a registry, and what a pull makes of them
	Weights [][]byte          // GGUF files to make models of
	Recipes []Recipe          // other things to make models of
	Workers int               // requests at a time
	Calls   int               // requests in all; 0: until the store is gone
	May     func(error) bool  // errors besides ErrMissing that are no mistake; nil: none
	Event   func(string, int) // is told what happens; see Trigger

	History *History

	begun    atomic.Int64
	versions atomic.Int64
	mu       sync.Mutex
	wrong    []string
}

// Recipe is what a model is made of when that is more than one file of weights.
type Recipe struct {
	Files, Adapters map[string][]byte
	Quantize        string
	Weights         string // digest of what comes of it
}

// Run lets the clients loose until the store is gone or all calls are made, and
// returns errors that no client should see. The worker with number i uses the i-th of
// the clients, or one of them.
func (s *Storm) Run(ctx context.Context, seed uint64, clients ...Client) (wrong []string) {
	s.begun.Store(0)
	var group sync.WaitGroup
	for i := range s.Workers {
		w := &worker{Storm: s, rng: rand.New(rand.NewPCG(seed, uint64(i))), client: clients[i%len(clients)]}
		group.Go(func() {
			for s.Calls == 0 || s.begun.Add(1) <= int64(s.Calls) {
				if errors.Is(w.call(ctx), ErrGone) || ctx.Err() != nil {
					return
				}
			}
		})
	}
	group.Wait()
	wrong, s.wrong = s.wrong, nil
	return wrong
}

func (s *Storm) event(kind string, n int) {
	if s.Event != nil {
		s.Event(kind, n)
	}
}

// worker is one of the clients.
type worker struct {
	*Storm
	rng    *rand.Rand
	client Client
}

// call makes one request, of a client that leaves before the end in one of eight cases.
func (w *worker) call(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leave := -1
	if w.rng.IntN(8) == 0 {
		leave = w.rng.IntN(6)
	}
	line := func() {
		if leave--; leave == -1 {
			cancel()
		}
		w.event("line", 1)
	}
	to := w.Names[w.rng.IntN(len(w.Names))]
	var what string
	var err error
	switch n := w.rng.IntN(16); {
	case n < 2 && len(w.Recipes) > 0:
		what, err = "create by a recipe", w.createByRecipe(ctx, to, line)
	case n < 4:
		what, err = "create from a file", w.createFromFile(ctx, to, line)
	case n < 7:
		what, err = "create from a model", w.create(ctx, to, Source{From: w.any()}, "", line)
	case n < 9:
		what, err = "copy", w.change(to, anyVersion, "", func() error { return w.client.Copy(ctx, w.any(), to) })
	case n < 12:
		what, err = "delete", w.change(to, "", "", func() error { return w.client.Delete(ctx, to) })
	case n < 13:
		what, err = "upload", w.upload(ctx, slices.Concat(w.pick(), []byte(fmt.Sprint(w.rng.Uint64()))), line)
	case n < 14:
		what, err = "prune", w.client.Prune(ctx)
	default:
		what, err = "pull", w.pull(ctx, line)
	}
	switch {
	case err == nil:
		w.event("answer", 1)
	case errors.Is(err, ErrGone), errors.Is(err, ErrMissing), ctx.Err() != nil, w.May != nil && w.May(err):
	default:
		w.mu.Lock()
		w.wrong = append(w.wrong, fmt.Sprintf("%s (%s): %v", what, to, err))
		w.mu.Unlock()
	}
	if ctx.Err() != nil { // whether the store is gone shows in the next call
		return nil
	}
	return err
}

// any returns a name that may stand for a model.
func (w *worker) any() string { return w.Names[w.rng.IntN(len(w.Names))] }

func (w *worker) pick() []byte { return w.Weights[w.rng.IntN(len(w.Weights))] }

// change makes a request that changes a name, and notes what came of it.
func (w *worker) change(name, version, weights string, request func() error) error {
	c := w.History.Begin(name, version, weights)
	err := request()
	switch {
	case err == nil:
		w.History.Done(c)
	case errors.Is(err, ErrGone), errors.Is(err, context.Canceled):
	default:
		w.History.Failed(c)
	}
	return err
}

// create makes a model, the weights of which have this digest, or any when that is "".
func (w *worker) create(ctx context.Context, name string, of Source, weights string, line func()) error {
	version := fmt.Sprintf("version %d", w.versions.Add(1))
	return w.change(name, version, weights, func() error {
		return w.client.Create(ctx, name, of, version, line)
	})
}

func (w *worker) createFromFile(ctx context.Context, name string, line func()) error {
	weights := w.pick()
	if err := w.upload(ctx, weights, func() {}); err != nil {
		return err
	}
	digest := DigestOf(weights)
	return w.create(ctx, name, Source{Files: map[string]string{"m.gguf": digest}}, digest, line)
}

func (w *worker) createByRecipe(ctx context.Context, name string, line func()) error {
	r := w.Recipes[w.rng.IntN(len(w.Recipes))]
	of := Source{Quantize: r.Quantize}
	var err error
	if of.Files, err = w.uploadAll(ctx, r.Files); err != nil {
		return err
	}
	if of.Adapters, err = w.uploadAll(ctx, r.Adapters); err != nil {
		return err
	}
	return w.create(ctx, name, of, r.Weights, line)
}

func (w *worker) uploadAll(ctx context.Context, files map[string][]byte) (sent map[string]string, err error) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.upload(ctx, files[name], func() {}); err != nil {
			return nil, err
		}
		if sent == nil {
			sent = make(map[string]string)
		}
		sent[name] = DigestOf(files[name])
	}
	return sent, nil
}

func (w *worker) upload(ctx context.Context, content []byte, line func()) error {
	sent := &counter{Reader: bytes.NewReader(content), tell: func(n int) {
		line()
		w.event("sent", n)
	}}
	return w.client.Upload(ctx, DigestOf(content), sent)
}

// counter tells how much is read.
type counter struct {
	io.Reader
	tell func(int)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p[:min(len(p), 32<<10)])
	if n > 0 {
		c.tell(n)
	}
	return n, err
}

func (w *worker) pull(ctx context.Context, line func()) error {
	if len(w.Pulls) == 0 {
		return nil
	}
	names := make([]string, 0, len(w.Pulls))
	for name := range w.Pulls {
		names = append(names, name)
	}
	slices.Sort(names)
	name := names[w.rng.IntN(len(names))]
	model := w.Pulls[name]
	return w.change(name, model.System, model.Weights, func() error { return w.client.Pull(ctx, name, line) })
}

// Trigger fires once, in the middle of a Storm: after a number of events that a seed
// chooses, of a kind that it chooses.
type Trigger struct {
	Kind string
	At   int64
	left atomic.Int64
	Fire func()
}

// NewTrigger returns a trigger. most tells, for each kind of event, how many may be
// waited for.
func NewTrigger(rng *rand.Rand, most map[string]int, fire func()) *Trigger {
	kinds := make([]string, 0, len(most))
	for kind := range most {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	kind := kinds[rng.IntN(len(kinds))]
	t := &Trigger{Kind: kind, At: 1 + rng.Int64N(int64(most[kind])), Fire: fire}
	t.left.Store(t.At)
	return t
}

// Event counts n events of a kind.
func (t *Trigger) Event(kind string, n int) {
	if kind != t.Kind {
		return
	}
	if left := t.left.Add(-int64(n)); left <= 0 && left+int64(n) > 0 {
		t.Fire()
	}
}

func (t *Trigger) String() string { return fmt.Sprintf("%d of %q", t.At, t.Kind) }
