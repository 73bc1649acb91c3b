package daemon

import (
	"context"
	"time"

	"github.com/ollama/ollama/api"

	"cllm/llm"
	"cllm/modelstore"
	"cllm/scheduler"
)

// runnerOptions are the options that belong to the engine, not to a request.
type runnerOptions = api.Runner

// lease keeps a model resident while it is held.
type lease struct {
	model        *modelstore.Model
	vocab        llm.Vocab
	sched        *scheduler.Scheduler
	context      int           // positions one request may use at most
	loadDuration time.Duration // what this request waited for the load

	// grammar compiles GBNF text for the model's vocabulary. The caller closes
	// what it returns, or hands it to the scheduler.
	grammar func(gbnf string) (llm.Grammar, error)

	done func()
}

// release gives the lease back. The vocabulary must not be used afterwards. A
// second call does nothing.
func (l *lease) release() { l.done() }

// residency owns the models in memory.
type residency struct{}

// acquire returns the model resident, loading it if need be. While it loads, the
// request waits in the daemon's queue. A keepAlive replaces that of the model for
// everyone. Errors are scheduler.ErrBusy when the queue is full, ctx's error, or
// why the model can't be loaded.
func (r *residency) acquire(ctx context.Context, m *modelstore.Model, num runnerOptions, keepAlive *api.Duration) (*lease, error) {
	return nil, errStopping
}

// unload frees the model when its last lease is given back.
func (r *residency) unload(m *modelstore.Model) {}
