package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"
	"github.com/spf13/cobra"
)

// runOptions is what a question is asked with.
type runOptions struct {
	model        string
	prompt       string
	format       string          // "", json, or a JSON schema
	think        *api.ThinkValue // nil leaves it to the daemon
	hideThinking bool
	keepAlive    *api.Duration // nil leaves the daemon's
	wrap         bool
	verbose      bool
	vision       bool // files named in a prompt may be images
	options      map[string]any
}

// runFlags are the flags of run as they were written.
type runFlags struct {
	keepAlive, format, think                            string
	verbose, insecure, noWrap, hideThinking, truncation bool
	dimensions                                          int
}

func runCommand(c *console) *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "run MODEL [PROMPT]",
		Short: "Run a model",
		Args:  cobra.MinimumNArgs(1),
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return runModel(cmd, c, client, flags, args)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&flags.keepAlive, "keepalive", "", "Duration to keep a model loaded (e.g. 5m)")
	f.BoolVar(&flags.verbose, "verbose", false, "Show timings for response")
	f.BoolVar(&flags.insecure, "insecure", false, "Use an insecure registry")
	f.BoolVar(&flags.noWrap, "nowordwrap", false, "Don't wrap words to the next line automatically")
	f.StringVar(&flags.format, "format", "", "Response format (e.g. json)")
	f.StringVar(&flags.think, "think", "", "Enable thinking mode: true/false or high/medium/low for supported models")
	f.Lookup("think").NoOptDefVal = "true"
	f.BoolVar(&flags.hideThinking, "hidethinking", false, "Hide thinking output (if provided)")
	f.BoolVar(&flags.truncation, "truncate", false, "For embedding models: truncate inputs exceeding context length (default: true). Set --truncate=false to error instead")
	f.IntVar(&flags.dimensions, "dimensions", 0, "Truncate output embeddings to specified dimension (embedding models only)")
	return cmd
}

// parse checks the flags that have a grammar.
func (f runFlags) parse(cmd *cobra.Command) (runOptions, error) {
	opts := runOptions{
		format: f.format, hideThinking: f.hideThinking,
		wrap: !f.noWrap, verbose: f.verbose, options: map[string]any{},
	}
	if f.format != "" && f.format != "json" && !json.Valid([]byte(f.format)) {
		return opts, fmt.Errorf("invalid value for --format: %q (must be json or a JSON schema)", f.format)
	}
	if cmd.Flags().Changed("think") {
		switch f.think {
		case "", "true":
			opts.think = &api.ThinkValue{Value: true}
		case "false":
			opts.think = &api.ThinkValue{Value: false}
		case "high", "medium", "low":
			opts.think = &api.ThinkValue{Value: f.think}
		default:
			return opts, fmt.Errorf("invalid value for --think: %q (must be true, false, high, medium, or low)", f.think)
		}
	}
	if f.keepAlive != "" {
		d, err := time.ParseDuration(f.keepAlive)
		if err != nil {
			return opts, err
		}
		opts.keepAlive = &api.Duration{Duration: d}
	}
	return opts, nil
}

// runModel answers one prompt, or talks with the user when there is none and both
// ends are terminals.
func runModel(cmd *cobra.Command, c *console, client *api.Client, flags runFlags, args []string) error {
	ctx := cmd.Context()
	opts, err := flags.parse(cmd)
	if err != nil {
		return err
	}
	opts.model = args[0]
	prompts := args[1:]
	interactive := len(prompts) == 0 && isTerminal(c.in) && isTerminal(c.out)
	if !isTerminal(c.in) {
		text, err := io.ReadAll(c.in)
		if err != nil {
			return fmt.Errorf("reading the prompt from standard input: %w", err)
		}
		if len(text) > 0 {
			prompts = slices.Insert(slices.Clone(prompts), 0, string(text))
		}
	}
	opts.prompt = strings.Join(prompts, " ")

	info, err := showOrPull(ctx, c, client, opts.model, flags.insecure)
	if err != nil {
		return err
	}
	opts.learn(info, opts.think != nil)
	switch {
	case slices.Contains(info.Capabilities, model.CapabilityEmbedding):
		var truncate *bool
		if cmd.Flags().Changed("truncate") {
			truncate = &flags.truncation
		}
		return embed(ctx, c, client, opts, truncate, flags.dimensions)
	case slices.Contains(info.Capabilities, model.CapabilityImage):
		return errors.New("image generation models are not currently supported")
	case interactive:
		return converse(ctx, c, client, opts, info)
	}
	return generate(ctx, c, client, opts)
}

// learn takes over what the daemon tells about the model. A model that can think
// does, unless the user decided about it.
func (o *runOptions) learn(info *api.ShowResponse, thinkChosen bool) {
	o.vision = slices.Contains(info.Capabilities, model.CapabilityVision)
	if thinkChosen {
		return
	}
	o.think = nil
	if slices.Contains(info.Capabilities, model.CapabilityThinking) {
		o.think = &api.ThinkValue{Value: true}
	}
}

// showOrPull asks about a model, and has it pulled first if it is not there.
func showOrPull(ctx context.Context, c *console, client *api.Client, name string, insecure bool) (*api.ShowResponse, error) {
	info, err := client.Show(ctx, &api.ShowRequest{Model: name})
	var status api.StatusError
	if !errors.As(err, &status) || status.StatusCode != http.StatusNotFound {
		return info, err
	}
	missing := err
	if err := pull(ctx, c, client, name, insecure); notOffered(err) {
		return nil, missing
	} else if err != nil {
		return nil, err
	}
	return client.Show(ctx, &api.ShowRequest{Model: name})
}

// embed prints the embedding of the prompt as a JSON array.
func embed(ctx context.Context, c *console, client *api.Client, opts runOptions, truncate *bool, dimensions int) error {
	if opts.prompt == "" {
		return fmt.Errorf("embedding models require input text. Usage: cllm run %s \"your text here\"", opts.model)
	}
	resp, err := client.Embed(ctx, &api.EmbedRequest{
		Model: opts.model, Input: opts.prompt, KeepAlive: opts.keepAlive,
		Truncate: truncate, Dimensions: dimensions,
	})
	if err != nil {
		return err
	}
	if len(resp.Embeddings) == 0 {
		return errors.New("no embeddings returned")
	}
	return json.NewEncoder(c.out).Encode(resp.Embeddings[0])
}

// generate answers one prompt. Without one it only loads the model.
func generate(ctx context.Context, c *console, client *api.Client, opts runOptions) error {
	req := &api.GenerateRequest{
		Model: opts.model, Prompt: opts.prompt, Format: opts.rawFormat(),
		Options: opts.options, KeepAlive: opts.keepAlive, Think: opts.think,
	}
	if opts.vision {
		var err error
		if req.Prompt, req.Images, err = takeImages(c.err, opts.prompt); err != nil {
			return err
		}
	}
	a := newAnswer(c, opts)
	defer a.end()
	var last api.GenerateResponse
	err := client.Generate(ctx, req, func(r api.GenerateResponse) error {
		last = r
		a.add(r.Thinking, r.Response, r.ToolCalls)
		return nil
	})
	a.end()
	if ctx.Err() != nil {
		fmt.Fprintln(c.out)
		if c.session.Err() != nil {
			return ctx.Err()
		}
		return nil // Ctrl-C ends the answer, which is no failure
	}
	if err == nil && !last.Done {
		err = errCutOff
	}
	if err != nil {
		return err
	}
	if opts.prompt != "" {
		fmt.Fprint(c.out, "\n\n")
	}
	if opts.verbose {
		last.Summary()
	}
	return nil
}

// rawFormat is the format as the request carries it.
func (o runOptions) rawFormat() json.RawMessage {
	if o.format == "json" {
		return json.RawMessage(`"json"`)
	}
	return json.RawMessage(o.format)
}
