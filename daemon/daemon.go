package daemon

import (
	"errors"
	"log/slog"

	"cllm/modelstore"
	"cllm/scheduler"
)

// Daemon serves Ollama's API. Make it with New.
type Daemon struct {
	opts     Options
	log      *slog.Logger
	store    *modelstore.Store
	queue    *scheduler.Queue
	resident *residency
}

// lookup returns a model by the name that a client wrote. A name that is not one,
// or is not there, is the 404 of generate, chat and show.
func (d *Daemon) lookup(name string) (*modelstore.Model, error) {
	n, err := modelstore.ParseName(name)
	if err != nil {
		return nil, notFound(name)
	}
	m, err := d.store.Get(n)
	if errors.Is(err, modelstore.ErrNotFound) {
		return nil, notFound(name)
	}
	return m, err
}
