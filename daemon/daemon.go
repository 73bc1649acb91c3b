package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync"

	"github.com/gin-gonic/gin"

	"cllm/modelstore"
	"cllm/scheduler"
)

// Daemon serves Ollama's API. Make it with New, then call Run, or Start and Stop.
type Daemon struct {
	opts     Options
	log      *slog.Logger
	store    *modelstore.Store
	queue    *scheduler.Queue
	resident *residency
	formats  *formats
	aliases  *aliases
	origins  gin.HandlerFunc

	lifecycle // see lifecycle.go
}

// New makes a daemon. It opens the model folder, but neither a port nor a model,
// and leaves nothing behind that would have to be closed.
func New(o Options) (*Daemon, error) {
	opts, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Daemon{opts: opts, log: opts.Log, queue: scheduler.NewQueue(opts.MaxQueue)}
	d.broken = make(chan error, 1)
	if d.origins, err = allowOrigins(opts.Origins); err != nil {
		return nil, err
	}
	storeOptions := []modelstore.Option{modelstore.WithRegistry(registry(opts))}
	if opts.NoPrune {
		storeOptions = append(storeOptions, modelstore.KeepUnused())
	}
	if d.store, err = modelstore.Open(opts.Models, storeOptions...); err != nil {
		return nil, err
	}
	if err := d.store.Writable(); err != nil {
		d.log.Warn("models can be run, but not created, copied or deleted", "error", err)
	}
	d.resident = newResidency(opts, d.queue)
	d.formats = &formats{convert: opts.Loader.SchemaToGrammar}
	d.aliases = newAliases(opts.Aliases)
	if _, err := d.aliases.list(); err != nil {
		d.log.Warn("there are no aliases", "error", err)
	}
	return d, nil
}

// registry is how the store reaches registries: as an Ollama of our version.
func registry(o Options) modelstore.Registry {
	r := modelstore.Registry{
		Transport: o.transport,
		UserAgent: fmt.Sprintf("ollama/%s (%s %s) Go/%s", o.Version, runtime.GOARCH, runtime.GOOS, runtime.Version()),
		Sign:      o.Sign,
		Streams:   o.Streams,
	}
	if o.Network {
		r.Transport = modelstore.NewTransport()
	}
	return r
}

// Start opens the port and serves until Stop. A daemon starts once.
func (d *Daemon) Start() (err error) {
	d.life.Lock()
	defer d.life.Unlock()
	switch {
	case d.stopped:
		return errors.New("the daemon was stopped and can't be started again; make a new one")
	case d.started:
		return errors.New("the daemon was started before")
	}
	d.started = true
	defer func() {
		if err != nil { // what was set up goes again, and nothing more can be started
			d.stopped = true
			err = errors.Join(err, d.cleanUp())
		}
	}()

	port, err := d.opts.listen(d.opts.Listen)
	if err != nil {
		return err
	}
	l := limited(port, d.opts.MaxConnections, d.opts.IOTimeout)
	d.onStop("port", func(context.Context) error {
		l.Close() // a second close fails, and that is no failure
		return nil
	})
	d.listener.Store(l)
	go d.resident.run()
	d.onStop("models", d.freeModels)

	ctx, cancel := context.WithCancel(context.Background())
	var background sync.WaitGroup
	d.onStop("background work", func(context.Context) error {
		cancel()
		background.Wait()
		return nil
	})
	d.installDemo(ctx)
	if !d.opts.NoPrune {
		background.Go(func() { d.prune(ctx) })
	}

	d.server = &http.Server{
		Handler:           d.routes(l.Addr()),
		ReadHeaderTimeout: d.opts.IOTimeout,
		IdleTimeout:       d.opts.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	background.Go(func() { d.serve(l) })
	d.onStop("requests", d.drain)
	d.log.Info(fmt.Sprintf("Listening on %s (version %s)", l.Addr(), d.opts.Version))
	return nil
}

// installDemo comes after the port is open, so that a daemon that can't start writes
// nothing, and before anything is accepted from it.
func (d *Daemon) installDemo(ctx context.Context) {
	if d.opts.Demo == nil {
		return
	}
	switch err := d.opts.Demo(ctx, d.store); {
	case err == nil:
	case errors.Is(err, modelstore.ErrReadOnly):
		d.log.Warn("the demo model is not in the model folder", "error", err)
	default:
		d.log.Error("the demo model is not in the model folder", "error", err)
	}
}

// serve accepts connections until the port is closed.
func (d *Daemon) serve(l *listener) {
	if err := d.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		d.broken <- fmt.Errorf("the port can't be served any more: %w", err)
	}
}

// prune removes what earlier crashes and deleted models left in the model folder.
func (d *Daemon) prune(ctx context.Context) {
	if d.store.Writable() != nil {
		return
	}
	pruned, err := d.store.Prune(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		d.log.Warn("unused files stay in the model folder", "error", err)
	case pruned.Files > 0:
		d.log.Info("removed unused files from the model folder", "files", pruned.Files, "bytes", pruned.Bytes)
	}
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
