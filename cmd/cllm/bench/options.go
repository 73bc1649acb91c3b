package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxRequests    = 1_000_000
	maxConcurrency = 4096
)

// Options is what a run measures. Its JSON is the settings of the report.
type Options struct {
	Servers []Server `json:"-"`
	// Concurrency is the closed loads, Rate the open ones in requests/s. One of
	// them is empty.
	Concurrency []int         `json:"concurrency,omitempty"`
	Rate        []float64     `json:"rate,omitempty"`
	Requests    int           `json:"requests,omitempty"`
	Repeat      int           `json:"repeat"`
	Warmup      int           `json:"warmup"`
	Timeout     time.Duration `json:"timeout_ns"`

	Model string `json:"model,omitempty"` // "" is each server's first
	// PromptTokens is the length of a prompt, the server's template included.
	// SharedPrefix is the part after the template that all prompts begin with.
	PromptTokens int     `json:"prompt_tokens"`
	SharedPrefix int     `json:"shared_prefix"`
	MaxTokens    int     `json:"max_tokens"`
	Temperature  float64 `json:"temperature"`
	Stream       bool    `json:"stream"`
	// Seed draws prompts and arrivals. A server may still hold the prompts of an
	// earlier run with the same seed.
	Seed    uint64 `json:"seed,omitempty"`
	Goodput Limits `json:"goodput"`

	// Progress, if set, is told what is measured. It may be read at any time.
	Progress *Progress `json:"-"`
	// dial replaces the network in tests.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Server is a server to measure.
type Server struct {
	Name, URL string
	API       string // apiOllama, apiOpenAI, or "" to find out
}

const (
	apiOllama = "ollama"
	apiOpenAI = "openai"
)

// ParseServer reads NAME=URL, where the URL may begin with ollama+ or openai+.
func ParseServer(text string) (Server, error) {
	name, address, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return Server{}, fmt.Errorf("%q is not NAME=URL, for example cllm=http://127.0.0.1:11434", text)
	}
	s := Server{Name: name, URL: strings.TrimRight(address, "/")}
	for _, api := range []string{apiOllama, apiOpenAI} {
		if rest, ok := strings.CutPrefix(s.URL, api+"+"); ok {
			s.URL, s.API = rest, api
		}
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Server{}, fmt.Errorf("the server %s has the address %q; it must begin with http://, https://, ollama+http:// or openai+http://", name, address)
	}
	return s, nil
}

// Limits is what a reply must keep to count as good, in ms; 0 is no limit.
type Limits struct {
	TTFT float64 `json:"ttft_ms,omitempty"`
	TPOT float64 `json:"tpot_ms,omitempty"`
	E2EL float64 `json:"e2el_ms,omitempty"`
}

// ParseLimits reads a list like ttft:1000,tpot:100,e2el:20000.
func ParseLimits(text string) (l Limits, err error) {
	if text == "" {
		return l, nil
	}
	fields := map[string]*float64{"ttft": &l.TTFT, "tpot": &l.TPOT, "e2el": &l.E2EL}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, ":")
		ms, err := strconv.ParseFloat(value, 64)
		if fields[name] == nil || err != nil || !positive(ms) {
			return Limits{}, fmt.Errorf("the limit %q is not ttft:MS, tpot:MS or e2el:MS", part)
		}
		*fields[name] = ms
	}
	return l, nil
}

// set tells whether there is any limit.
func (l Limits) set() bool { return l != Limits{} }

func positive(f float64) bool { return f > 0 && !math.IsInf(f, 0) }

// check says in a sentence what is wrong with the options.
func (o Options) check() error {
	for i, s := range o.Servers {
		if slices.ContainsFunc(o.Servers[:i], func(before Server) bool { return before.Name == s.Name }) {
			return fmt.Errorf("two servers are named %s; their rows could not be told apart", s.Name)
		}
	}
	for _, c := range o.Concurrency {
		if c < 1 || c > maxConcurrency {
			return fmt.Errorf("the concurrency %d is not from 1 to %d", c, maxConcurrency)
		}
	}
	for i, l := range o.loads() {
		if slices.Contains(o.loads()[:i], l) {
			return fmt.Errorf("the load %s is given more than once; --repeat measures all loads again", l)
		}
	}
	for _, r := range o.Rate {
		if !positive(r) {
			return fmt.Errorf("the rate %v is not a number of requests per second", r)
		}
	}
	counts := []struct {
		name             string
		value, low, high int
	}{
		{"requests", o.Requests, 1, maxRequests},
		{"repeat", o.Repeat, 1, 1000},
		{"warmup", o.Warmup, 0, maxRequests},
		{"max-tokens", o.MaxTokens, 1, math.MaxInt32},
		{"prompt-tokens", o.PromptTokens, 1, 1 << 20},
		{"shared-prefix", o.SharedPrefix, 0, o.PromptTokens},
	}
	for _, c := range counts {
		if c.value < c.low || c.value > c.high {
			return fmt.Errorf("--%s %d is not from %d to %d", c.name, c.value, c.low, c.high)
		}
	}
	switch {
	case len(o.Servers) == 0:
		return errors.New("there is no server to measure")
	case (len(o.Concurrency) == 0) == (len(o.Rate) == 0):
		return errors.New("give either --concurrency for a closed loop or --rate for an open one")
	case o.Timeout <= 0:
		return errors.New("--timeout must be more than nothing, for example 10m")
	case o.Temperature < 0 || math.IsNaN(o.Temperature):
		return fmt.Errorf("--temperature %v is less than 0", o.Temperature)
	case !o.Stream && (o.Goodput.TTFT > 0 || o.Goodput.TPOT > 0):
		return errors.New("without --stream there is no TTFT and no TPOT to limit: use --goodput e2el:MS")
	}
	return nil
}

// load is one kind of work: so many clients, or requests at a rate.
type load struct {
	Concurrency int     `json:"concurrency,omitempty"`
	Rate        float64 `json:"rate,omitempty"`
}

func (o Options) loads() []load {
	var all []load
	for _, c := range o.Concurrency {
		all = append(all, load{Concurrency: c})
	}
	for _, r := range o.Rate {
		all = append(all, load{Rate: r})
	}
	return all
}

// String is the load as a cell of the table.
func (l load) String() string {
	return cmp.Or(strings.TrimPrefix(strconv.Itoa(l.Concurrency), "0"), strconv.FormatFloat(l.Rate, 'g', -1, 64))
}

// unit names what String counts.
func (l load) unit() string {
	if l.Concurrency > 0 {
		return "clients"
	}
	return "rate/s"
}
