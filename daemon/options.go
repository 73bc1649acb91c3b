package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"time"

	"cllm/modelstore"
)

// Options says what New makes. Zero fields get the default that stands beside
// them, if there is one.
type Options struct {
	Listen  string // host:port; 127.0.0.1:11434
	Version string // of Ollama, as /api/version tells it; 0.17.4
	Models  string // the model folder
	NoPrune bool   // keep the blobs that no model needs
	Loader  Loader // opens models
	Network bool   // models may be pulled from and pushed to registries

	Streams int                                                    // parts of a file that are pulled at a time; 16
	Sign    func(ctx context.Context, data []byte) (string, error) // tells registries who we are

	Log *slog.Logger

	// Demo puts the demo model into the store, if need be, before the first request is
	// answered; nil: there is none. The daemon serves without it if it fails.
	Demo func(context.Context, *modelstore.Store) error

	Slots         int           // requests of one model decoded together, 1 to 256; 64
	MaxQueue      int           // requests that wait, over all models; 512
	MaxLoaded     int           // models in memory; 3
	NoDrafts      bool          // compute answers token by token; see scheduler.Options
	KeepAlive     time.Duration // how long a model stays without requests; 0 means not at all, negative for ever
	LoadTimeout   time.Duration // a load without progress for so long is given up; 0: never
	ContextLength int           // num_ctx of requests that don't say; 4096
	Aliases       string        // Ollama's server.json, which holds the aliases of models; "": they are forgotten with the daemon
	CloudOff      string        // who switched Ollama's cloud off, as /api/status tells it: env, config or both; config
	Origins       []string      // origins that browsers may come from; those of this machine

	MaxConnections int           // 1024
	IOTimeout      time.Duration // a socket read or write without progress for so long ends the connection; 60 s
	IdleTimeout    time.Duration // a connection without a request is closed after it; 10 min
	MaxBody        int64         // bytes of a request body, blobs excepted; 256 MiB
	StopTimeout    time.Duration // answers in progress may take so long to finish when the daemon stops; 10 s

	// The machine; tests put their own here.
	memory    func() memory
	transport http.RoundTripper // to registries
	listen    func(address string) (net.Listener, error)
}

const (
	defaultListen  = "127.0.0.1:11434"
	defaultVersion = "0.17.4"
	maxSlots       = 256
	forever        = time.Duration(math.MaxInt64)
)

// withDefaults fills in what was left open and checks the rest.
func (o Options) withDefaults() (Options, error) {
	set(&o.Listen, defaultListen)
	set(&o.Version, defaultVersion)
	set(&o.Log, slog.Default())
	set(&o.Slots, 64)
	set(&o.MaxQueue, 512)
	set(&o.MaxLoaded, 3)
	set(&o.ContextLength, 4096)
	set(&o.CloudOff, "config")
	set(&o.MaxConnections, 1024)
	set(&o.IOTimeout, 60*time.Second)
	set(&o.IdleTimeout, 10*time.Minute)
	set(&o.MaxBody, 256<<20)
	set(&o.StopTimeout, 10*time.Second)
	if len(o.Origins) == 0 {
		o.Origins = []string{"http://localhost", "http://localhost:*", "http://127.0.0.1", "http://127.0.0.1:*"}
	}
	if o.memory == nil {
		o.memory = readMemory
	}
	if o.listen == nil {
		o.listen = listen
	}
	if o.KeepAlive < 0 {
		o.KeepAlive = forever
	}
	switch {
	case o.Models == "":
		return o, errors.New("no model folder: set Options.Models")
	case o.Loader == nil:
		return o, errors.New("no loader: set Options.Loader")
	case o.Slots < 1 || o.Slots > maxSlots:
		return o, fmt.Errorf("%d requests at a time are not possible: OLLAMA_NUM_PARALLEL is 1 to %d", o.Slots, maxSlots)
	case o.MaxQueue < 0, o.MaxLoaded < 0, o.ContextLength < 0, o.MaxConnections < 0, o.IOTimeout < 0,
		o.IdleTimeout < 0, o.MaxBody < 0, o.StopTimeout < 0, o.LoadTimeout < 0:
		return o, errors.New("an option is negative that counts or lasts")
	}
	return o, nil
}

// set gives a zero field its default.
func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
