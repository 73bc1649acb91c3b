package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/errtypes"
)

// command acts on a line that begins with a slash.
func (s *session) command(ctx context.Context, line string) error {
	words := strings.Fields(line)
	args := words[1:]
	switch words[0] {
	case "/set":
		return s.set(ctx, args)
	case "/show":
		return s.show(ctx, args)
	case "/load":
		return s.load(ctx, args)
	case "/save":
		return s.save(ctx, args)
	case "/list":
		return listModels(ctx, s.c.out, s.client, args)
	case "/clear":
		s.messages = nil
		if s.system != "" {
			s.messages = []api.Message{{Role: "system", Content: s.system}}
		}
		fmt.Fprintln(s.c.out, "Cleared session context")
	case "/help", "/?":
		s.help(args)
	case "/bye", "/exit":
		return errLeave
	default:
		fmt.Fprintf(s.c.out, "Unknown command '%s'. Type /? for help\n", words[0])
	}
	return nil
}

// load goes on with another model and an empty conversation. If the model cannot
// be loaded, everything stays as it was.
func (s *session) load(ctx context.Context, args []string) error {
	if len(args) != 1 {
		fmt.Fprintln(s.c.out, "Usage:\n  /load <modelname>")
		return nil
	}
	opts := s.opts
	opts.model = args[0]
	fmt.Fprintf(s.c.out, "Loading model '%s'\n", opts.model)
	info, err := s.client.Show(ctx, &api.ShowRequest{Model: opts.model})
	if err == nil {
		opts.learn(info, s.thinkChosen)
		_, err = setResident(ctx, s.c, s.client, opts)
	}
	if isNotFound(err) {
		fmt.Fprintf(s.c.out, "Couldn't find model '%s'\n", opts.model)
		return nil
	}
	if err != nil {
		return err
	}
	s.opts, s.inherited, s.system, s.messages = opts, info.Messages, "", nil
	return nil
}

// save makes a model of the conversation: the present model with what was set and
// said on top. What the model itself brought along stays in it.
func (s *session) save(ctx context.Context, args []string) error {
	if len(args) != 1 {
		fmt.Fprintln(s.c.out, "Usage:\n  /save <modelname>")
		return nil
	}
	req := &api.CreateRequest{Model: args[0], From: s.opts.model, System: s.system}
	if len(s.opts.options) > 0 {
		req.Parameters = s.opts.options
	}
	if len(s.messages) > 0 {
		// The daemon replaces the messages of the model by these.
		req.Messages = slices.Concat(s.inherited, s.messages)
	}
	created := &transfer{display: newDisplay(io.Discard)}
	defer created.display.finish()
	err := created.ended(ctx, s.client.Create(ctx, req, created.show))
	if err != nil && strings.Contains(err.Error(), errtypes.InvalidModelNameErrMsg) {
		fmt.Fprintf(s.c.out, "error: The model name '%s' is invalid\n", args[0])
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(s.c.out, "Created new model '%s'\n", args[0])
	return nil
}

// show prints one part of what the daemon knows of the model.
func (s *session) show(ctx context.Context, args []string) error {
	if len(args) == 0 {
		s.help([]string{"show"})
		return nil
	}
	info, err := s.client.Show(ctx, &api.ShowRequest{Model: s.opts.model, System: s.system, Options: s.opts.options})
	if err != nil {
		return fmt.Errorf("couldn't get model: %w", err)
	}
	orElse := func(text, missing string) {
		if text == "" {
			text = missing
		}
		fmt.Fprintln(s.c.out, text)
	}
	switch args[0] {
	case "info":
		writeInfo(s.c.err, info, false)
	case "license":
		orElse(info.License, "No license was specified for this model.")
	case "modelfile":
		fmt.Fprintln(s.c.out, info.Modelfile)
	case "parameters":
		s.showParameters(info.Parameters)
	case "system":
		system := s.system
		if system == "" {
			system = info.System
		}
		if system != "" {
			system += "\n"
		}
		orElse(system, "No system message was specified for this model.")
	case "template":
		orElse(info.Template, "No prompt template was specified for this model.")
	default:
		fmt.Fprintf(s.c.out, "Unknown command '/show %s'. Type /? for help\n", args[0])
	}
	return nil
}

func (s *session) showParameters(defined string) {
	w := s.c.out
	fmt.Fprintln(w, "Model defined parameters:")
	if defined == "" {
		defined = "No additional parameters were specified for this model."
	}
	for line := range strings.SplitSeq(defined, "\n") {
		fmt.Fprintf(w, "  %s\n", line)
	}
	fmt.Fprintln(w)
	if len(s.opts.options) == 0 {
		return
	}
	fmt.Fprintln(w, "User defined parameters:")
	for _, name := range slices.Sorted(maps.Keys(s.opts.options)) {
		fmt.Fprintf(w, "  %-30s %v\n", name, s.opts.options[name])
	}
	fmt.Fprintln(w)
}
