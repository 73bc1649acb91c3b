package daemon

import (
	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics answers GET /metrics in Prometheus's text format. Nothing is counted for
// it on a request's way: what it tells is read when it is asked for.
func (d *Daemon) metrics() gin.HandlerFunc {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{d})
	return gin.WrapH(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}

// collector reads the daemon's state.
type collector struct{ d *Daemon }

func describeMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("cllm_"+name, help, labels, nil)
}

var (
	descWaiting     = describeMetric("requests_waiting", "Requests without a slot, of all models.")
	descWaitingMax  = describeMetric("requests_waiting_limit", "Requests that may wait before others get a 503.")
	descConnections = describeMetric("connections", "Open connections.")
	descRefused     = describeMetric("connections_refused_total", "Connections that got a 503 because there were too many.")

	descSlots    = describeMetric("slots", "Requests that the model decodes together at most.", "model")
	descActive   = describeMetric("slots_active", "Requests that have a slot.", "model")
	descHeld     = describeMetric("kv_tokens", "Tokens in the KV cache.", "model")
	descBudget   = describeMetric("kv_tokens_limit", "Tokens that the memory budget allows in the KV cache.", "model")
	descMemory   = describeMetric("memory_bytes", "Weights, buffers and KV cache in use.", "model")
	descTokens   = describeMetric("tokens_total", "Tokens: generated, computed for prompts, found in the cache, drafted, drafted and right, and computed for embeddings.", "model", "kind")
	descFinished = describeMetric("requests_total", "Requests that ended: ok, failed or cancelled.", "model", "result")
	descSteps    = describeMetric("steps_total", "Batches decoded.", "model")
	descPasses   = describeMetric("passes_total", "Passes over the weights.", "model")
	descPreempt  = describeMetric("preempted_total", "Requests sent back to wait because memory was short.", "model")
	descTexts    = describeMetric("embeddings_total", "Texts that got their embedding.", "model")
	descCalls    = describeMetric("embedding_batches_total", "Batches of texts computed.", "model")
	descSeconds  = describeMetric("seconds_total", "Time spent: in the engine, sampling, scheduling, and computing embeddings.", "model", "part")
)

// Describe sends nothing: which models there are is only known when asked.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads everything once.
func (k collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	counter := func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v, labels...)
	}
	gauge(descWaiting, float64(k.d.queue.Waiting()))
	gauge(descWaitingMax, float64(k.d.opts.MaxQueue))
	if l := k.d.listener.Load(); l != nil {
		gauge(descConnections, float64(l.open()))
		counter(descRefused, float64(l.refused.Load()))
	}
	for _, r := range k.d.resident.list() {
		name, s := r.model.Name.DisplayShortest(), r.stats
		gauge(descSlots, float64(s.Slots), name)
		gauge(descActive, float64(s.Active), name)
		gauge(descHeld, float64(s.HeldTokens), name)
		gauge(descBudget, float64(s.TokenBudget), name)
		gauge(descMemory, float64(r.size), name)
		counter(descTokens, float64(s.DecodeTokens), name, "generated")
		counter(descTokens, float64(s.PrefillTokens), name, "prompt")
		counter(descTokens, float64(s.CachedTokens), name, "cached")
		counter(descTokens, float64(s.DraftTokens), name, "drafted")
		counter(descTokens, float64(s.DraftsStood), name, "accepted")
		e := r.embed
		counter(descTokens, float64(e.Tokens), name, "embedded")
		counter(descFinished, float64(s.FinishedOK+e.FinishedOK), name, "ok")
		counter(descFinished, float64(s.FinishedFailed+e.FinishedFailed), name, "failed")
		counter(descFinished, float64(s.CancelledByUser+e.CancelledByUser), name, "cancelled")
		counter(descTexts, float64(e.Texts), name)
		counter(descCalls, float64(e.Calls), name)
		counter(descSteps, float64(s.Steps), name)
		counter(descPasses, float64(s.Passes), name)
		counter(descPreempt, float64(s.Preempted), name)
		counter(descSeconds, s.EngineTime.Seconds(), name, "engine")
		counter(descSeconds, s.SampleTime.Seconds(), name, "sample")
		counter(descSeconds, s.SchedulerTime.Seconds(), name, "schedule")
		counter(descSeconds, e.EngineTime.Seconds(), name, "embed")
	}
}
