package daemon

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ollama/ollama/api"

	"cllm/llm"
	"cllm/modelstore"
	"cllm/scheduler"
)

// lease keeps a model resident while it is held.
type lease struct {
	model        *modelstore.Model
	vocab        llm.Vocab
	sched        *scheduler.Scheduler  // of a lease from acquire
	embed        *scheduler.Embeddings // of a lease from acquireEmbeddings
	context      int                   // positions one request may use at most
	loadDuration time.Duration         // what this request waited for the load

	done func()
}

// release gives the lease back. The vocabulary must not be used afterwards. A
// second call does nothing.
func (l *lease) release() { l.done() }

// acquire returns the model resident, loading it if need be, for a request that
// wants an answer. While it loads, the request waits in the daemon's queue. A
// keepAlive replaces that of the model for everyone. Errors are scheduler.ErrBusy
// when the queue is full, ctx's error, or why the model can't be loaded.
func (r *residency) acquire(ctx context.Context, m *modelstore.Model, num runnerOptions, keepAlive *api.Duration) (*lease, error) {
	l, err := r.wait(ctx, m, num, keepAlive)
	if err == nil && l.sched == nil {
		l.release()
		return nil, errorf(http.StatusBadRequest, "model '%s' gives embeddings only", m.Name.DisplayShortest())
	}
	return l, err
}

// acquireEmbeddings is acquire for a request that wants embeddings. A model that
// answers keeps its scheduler, and gets what computes embeddings beside it.
func (r *residency) acquireEmbeddings(ctx context.Context, m *modelstore.Model, num runnerOptions, keepAlive *api.Duration) (*lease, error) {
	l, err := r.wait(ctx, m, num, keepAlive)
	if err == nil && l.embed == nil {
		l.release()
		return nil, newError(http.StatusNotImplemented, textNoEmbeddings)
	}
	return l, err
}

// wait returns a lease on the model when it is resident.
func (r *residency) wait(ctx context.Context, m *modelstore.Model, num runnerOptions, keepAlive *api.Duration) (*lease, error) {
	if err := loadable(m); err != nil {
		return nil, err
	}
	size, err := weightBytes(m)
	if err != nil {
		return nil, err
	}
	w := &waiter{
		ctx: ctx, model: m, key: identity(m), size: size, embeddings: forEmbeddings(m), options: num, keepAlive: keepAlive,
		arrived: time.Now(), answer: make(chan grant),
	}
	if !r.send(arrived{w}) {
		return nil, errStopping
	}
	select {
	case g := <-w.answer:
		return g.lease, g.err
	case <-ctx.Done():
		r.send(left{w})
		return nil, ctx.Err()
	}
}

// identity is the same for models that can share weights and scheduler.
func identity(m *modelstore.Model) string {
	parts := append([]string{m.ModelPath}, m.AdapterPaths...)
	parts = append(parts, "projectors")
	return strings.Join(append(parts, m.ProjectorPaths...), "\x00")
}

// weightsKey is the same for models that can share weights: those that differ in their
// adapters only, and are computed in the same place.
func weightsKey(m *modelstore.Model, o runnerOptions) string {
	mapped := "as suits"
	if o.UseMMap != nil {
		mapped = strconv.FormatBool(*o.UseMMap)
	}
	return strings.Join([]string{m.ModelPath, strconv.Itoa(o.NumGPU), strconv.Itoa(o.MainGPU), mapped}, "\x00")
}

// forEmbeddings reports whether the model was made to give embeddings, not answers.
func forEmbeddings(m *modelstore.Model) bool {
	info, err := m.Info()
	return err == nil && info.HasPooling // the loader tells what is wrong with the file
}

// loadable refuses what the engine can't run.
func loadable(m *modelstore.Model) error {
	name := m.Name.DisplayShortest()
	switch err := runsHere(m); {
	case err != nil:
		return err
	case m.ModelPath == "":
		return errorf(http.StatusBadRequest, "model '%s' has no GGUF weights and can't be run; create it from a GGUF file", name)
	case len(m.ProjectorPaths) > 0:
		return errorf(http.StatusBadRequest, "model '%s' has a projector for images, which this server can't run yet; use a model without one", name)
	}
	return nil
}
