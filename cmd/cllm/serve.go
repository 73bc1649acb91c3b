package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ollama/ollama/auth"
	"github.com/ollama/ollama/envconfig"
	"github.com/spf13/cobra"

	"cllm/daemon"
	"cllm/daemon/llamaloader"
	"cllm/modelstore/demo"
)

// serveEnv are the variables that serve reads, as its help tells them.
var serveEnv = []struct{ name, meaning string }{
	{"OLLAMA_HOST", "address to listen on (default 127.0.0.1:11434)"},
	{"OLLAMA_MODELS", "model folder, shared with Ollama (default ~/.ollama/models)"},
	{"OLLAMA_NUM_PARALLEL", "requests of a model decoded together, 1 to 256 (default 64)"},
	{"OLLAMA_MAX_QUEUE", "requests that may wait; others get a 503 (default 512)"},
	{"OLLAMA_MAX_LOADED_MODELS", "models in memory at a time (default 3)"},
	{"OLLAMA_KEEP_ALIVE", "how long a model stays without requests (default 5m; negative: for ever)"},
	{"OLLAMA_LOAD_TIMEOUT", "how long a load may make no progress (default 5m; 0: for ever)"},
	{"OLLAMA_CONTEXT_LENGTH", "num_ctx of requests that don't set it (default 4096, or what the model was trained for if that is less)"},
	{"OLLAMA_KV_CACHE_TYPE", "number format of the KV cache: f16, q8_0 or q4_0 (default f16)"},
	{"OLLAMA_FLASH_ATTENTION", "true or false (default: where the device can)"},
	{"OLLAMA_ORIGINS", "more origins that browsers may come from, separated by commas"},
	{"OLLAMA_NOPRUNE", "keep files of the model folder that no model needs"},
	{"OLLAMA_MAX_TRANSFER_STREAMS", "parts of a file that are pulled at a time (default 16)"},
	{"HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "proxies on the way to registries, and hosts to reach without"},
	{"OLLAMA_DEBUG", "log more: 1 or 2"},
	{"CLLM_NODRAFTS", "compute answers token by token, however foreseeable they are"},
	{"CLLM_NODEMO", "don't put the demo model into a model folder that has no model 'demo'"},
	{"CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES, GGML_VK_VISIBLE_DEVICES", "GPUs that may be used"},
	{"GPU_DEVICE_ORDINAL, HSA_OVERRIDE_GFX_VERSION", "which AMD GPUs, and what they are taken for"},
}

// serveEnvIgnored are Ollama's other variables. They may be set.
const serveEnvIgnored = `Without effect here:
  OLLAMA_GPU_OVERHEAD, OLLAMA_LLM_LIBRARY, OLLAMA_LIBRARY_PATH, OLLAMA_MULTIUSER_CACHE,
  OLLAMA_NEW_ENGINE, OLLAMA_SCHED_SPREAD, OLLAMA_VULKAN, OLLAMA_IGPU_ENABLE,
  OLLAMA_GO_TEMPLATE, JETSON_JETPACK, LLAMA_ARG_FIT, LLAMA_ARG_FIT_TARGET
                                 they are about Ollama's own engines
  OLLAMA_NO_CLOUD, OLLAMA_REMOTES, OLLAMA_AUTH, OLLAMA_CLOUD_BASE_URL
                                 Ollama's cloud is always off
  OLLAMA_REGISTRY_MAXSTREAMS, OLLAMA_EXPERIMENT
                                 they are about another way to pull, which Ollama gave up
  OLLAMA_DEBUG_LOG_REQUESTS      bodies of requests are not logged
  OLLAMA_EDITOR, OLLAMA_NOHISTORY
                                 they are for 'cllm run'
`

const serveLong = `Serve Ollama's API. Requests of one model are decoded together, up to 64 at a
time. SIGINT or SIGTERM stops the daemon when the answers in progress have
ended, after 10 seconds at the latest; a second signal stops it at once.`

func serveCommand() *cobra.Command {
	var host, models string
	cmd := &cobra.Command{
		Use:     "serve",
		Aliases: []string{"start"},
		Short:   "Start cllm",
		Long:    serveLong,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if host != "" {
				os.Setenv("OLLAMA_HOST", host)
			}
			if models != "" {
				os.Setenv("OLLAMA_MODELS", models)
			}
			return serve(cmd.Context(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "Address to listen on, in place of OLLAMA_HOST")
	cmd.Flags().StringVar(&models, "models", "", "Model folder, in place of OLLAMA_MODELS")
	cmd.SetUsageTemplate(cmd.UsageTemplate() + serveEnvText())
	return cmd
}

// serveEnvText lists the variables for the help.
func serveEnvText() string {
	var b strings.Builder
	b.WriteString("\nEnvironment Variables:\n")
	for _, v := range serveEnv {
		names := strings.Split(v.name, ", ")
		for _, name := range names[:len(names)-1] {
			fmt.Fprintf(&b, "      %s,\n", name)
		}
		fmt.Fprintf(&b, "      %-26s %s\n", names[len(names)-1], v.meaning)
	}
	fmt.Fprintf(&b, "\n%s", serveEnvIgnored)
	return b.String()
}

// serve runs a daemon until ctx ends.
func serve(ctx context.Context, errs io.Writer) error {
	log := slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: envconfig.LogLevel()}))
	slog.SetDefault(log)
	opts, err := serveOptions(log)
	if err != nil {
		return err
	}
	d, err := daemon.New(opts)
	if err != nil {
		return err
	}
	// From the first signal on, a second one has its usual effect.
	defer context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })()
	return d.Run(ctx)
}

// serveOptions reads the environment.
func serveOptions(log *slog.Logger) (daemon.Options, error) {
	var aliases string
	if home, err := os.UserHomeDir(); err == nil {
		aliases = filepath.Join(home, ".ollama", "server.json")
		if err := makeKey(home); err != nil {
			log.Warn("there is no key to show to registries: public models can be pulled, nothing can be pushed", "error", err)
		}
	} else if envconfig.Var("OLLAMA_MODELS") == "" {
		return daemon.Options{}, fmt.Errorf("there is no home folder for the models: set OLLAMA_MODELS (%w)", err)
	}
	cloudOff := envconfig.NoCloudSource()
	if cloudOff == "none" { // it is off here all the same
		cloudOff = ""
	}
	loader, err := llamaloader.New(llamaloader.Options{
		KVType:         envconfig.KvCacheType(),
		FlashAttention: optionalBool("OLLAMA_FLASH_ATTENTION"),
		Log:            log,
	})
	if err != nil {
		return daemon.Options{}, err
	}
	opts := daemon.Options{
		Listen:        envconfig.Host().Host,
		Version:       version,
		Models:        envconfig.Models(),
		NoPrune:       envconfig.NoPrune(),
		Loader:        loader,
		Network:       true,
		Streams:       int(min(envconfig.Uint("OLLAMA_MAX_TRANSFER_STREAMS", 0)(), 64)),
		Sign:          auth.Sign,
		Log:           log,
		Slots:         int(envconfig.Uint("OLLAMA_NUM_PARALLEL", 0)()),
		MaxQueue:      int(envconfig.MaxQueue()),
		MaxLoaded:     int(envconfig.MaxRunners()),
		KeepAlive:     envconfig.KeepAlive(),
		LoadTimeout:   envconfig.LoadTimeout(),
		ContextLength: int(envconfig.ContextLength()),
		NoDrafts:      envconfig.Bool("CLLM_NODRAFTS")(),
		Origins:       envconfig.AllowedOrigins(),
		Aliases:       aliases,
		CloudOff:      cloudOff,
	}
	if !envconfig.Bool("CLLM_NODEMO")() {
		opts.Demo = demo.Install
	}
	return opts, nil
}

// optionalBool reads a variable that may be unset. Like Ollama it takes what it
// can't read for true.
func optionalBool(name string) *bool {
	if envconfig.Var(name) == "" {
		return nil
	}
	b := envconfig.Bool(name)()
	return &b
}
