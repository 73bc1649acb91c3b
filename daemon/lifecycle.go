package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// endingTime is how long answers may take for their last line once their models
	// are being stopped, and how long handlers may take once their connections are cut.
	endingTime = 2 * time.Second
	// freeingTime is how long engines and loads may take to end.
	freeingTime = 10 * time.Second
)

// lifecycle is the daemon's way from New to the end of Stop.
type lifecycle struct {
	// life is held through all of Start and Stop: with a mere flag, a Stop could
	// pass a Start that is half done and leave the rest of it running.
	life     sync.Mutex
	started  bool
	stopped  bool
	cleanups []cleanup

	listener atomic.Pointer[listener] // set once the port is open
	server   *http.Server
	broken   chan error // why the daemon can't go on by itself
}

// cleanup undoes a step of Start.
type cleanup struct {
	name string
	undo func(context.Context) error
}

// onStop registers what Stop has to undo. Cleanups run in LIFO order.
func (d *Daemon) onStop(name string, undo func(context.Context) error) {
	d.cleanups = append(d.cleanups, cleanup{name, undo})
}

// cleanUp undoes what Start did, as far as it came.
func (d *Daemon) cleanUp() error {
	var errs []error
	for i := len(d.cleanups) - 1; i >= 0; i-- {
		c := d.cleanups[i]
		if err := c.undo(context.Background()); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", c.name, err))
		}
	}
	d.cleanups = nil
	return errors.Join(errs...)
}

// Stop ends the daemon: it accepts nothing more, lets answers in progress finish
// for Options.StopTimeout, ends the rest with a last line, and frees the models.
// It returns when nothing of the daemon runs any more, or says what still does.
// A second call does nothing. A daemon that was not started can't be afterwards.
func (d *Daemon) Stop() error {
	d.life.Lock()
	defer d.life.Unlock()
	d.stopped = true
	return d.cleanUp()
}

// Run starts the daemon and serves until ctx ends or the port breaks; then it stops.
func (d *Daemon) Run(ctx context.Context) error {
	if err := d.Start(); err != nil {
		return err
	}
	var err error
	select {
	case <-ctx.Done():
		d.log.Info("stopping", "grace", d.opts.StopTimeout)
	case err = <-d.broken:
	}
	return errors.Join(err, d.Stop())
}

// Addr is the address that the daemon listens on, or nil before Start.
func (d *Daemon) Addr() net.Addr {
	if l := d.listener.Load(); l != nil {
		return l.Addr()
	}
	return nil
}

// drain closes the port and brings every request to its end: first by itself, then
// by stopping the models, which gives each answer its last line, then by cutting
// the connections.
func (d *Daemon) drain(ctx context.Context) error {
	if d.finish(ctx, d.opts.StopTimeout) {
		return nil
	}
	d.log.Info("ending the answers in progress")
	d.resident.stop()
	if d.finish(ctx, endingTime) {
		return nil
	}
	d.listener.Load().cut()
	if d.finish(ctx, endingTime) {
		return nil
	}
	return errors.New("some requests did not end")
}

// finish waits for the requests in progress and reports whether they have ended.
func (d *Daemon) finish(ctx context.Context, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := d.server.Shutdown(ctx)
	return !errors.Is(err, context.DeadlineExceeded)
}

// freeModels ends the schedulers and frees the engines.
func (d *Daemon) freeModels(ctx context.Context) error {
	d.resident.stop()
	select {
	case <-d.resident.done:
		return nil
	case <-time.After(freeingTime):
		return errors.New("a model can't be freed: it is in use, or its load does not end")
	}
}
