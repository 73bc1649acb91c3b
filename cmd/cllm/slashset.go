package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"
)

// set changes how the session asks, or what it shows.
func (s *session) set(ctx context.Context, args []string) error {
	if len(args) == 0 {
		s.help([]string{"set"})
		return nil
	}
	say := func(text string) { fmt.Fprintln(s.c.out, text) }
	switch args[0] {
	case "history":
		s.lines.keepHistory(true)
	case "nohistory":
		s.lines.keepHistory(false)
	case "wordwrap", "nowordwrap":
		s.opts.wrap = args[0] == "wordwrap"
		say("Set '" + args[0] + "' mode.")
	case "verbose", "quiet":
		s.opts.verbose = args[0] == "verbose"
		say("Set '" + args[0] + "' mode.")
	case "think", "nothink":
		return s.setThink(ctx, args[0] == "think", args[1:])
	case "format":
		if len(args) < 2 || args[1] != "json" {
			say("Invalid or missing format. For 'json' mode use '/set format json'")
			return nil
		}
		s.opts.format = args[1]
		say("Set format to 'json' mode.")
	case "noformat":
		s.opts.format = ""
		say("Disabled format.")
	case "parameter":
		s.setParameter(args[1:])
	case "system":
		if len(args) < 2 {
			s.help([]string{"set"})
			return nil
		}
		return s.setSystemLine(ctx, strings.Join(args[1:], " "))
	default:
		fmt.Fprintf(s.c.out, "Unknown command '/set %s'. Type /? for help\n", args[0])
	}
	return nil
}

// setThink decides about thinking: on, off, or on at a level that the daemon
// checks. A model that cannot think is only warned about, as /load may follow.
func (s *session) setThink(ctx context.Context, on bool, level []string) error {
	think, said := &api.ThinkValue{Value: on}, "Set 'think' mode."
	switch {
	case !on:
		said = "Set 'nothink' mode."
	case len(level) > 0:
		think.Value = level[0]
		said = fmt.Sprintf("Set 'think' mode to '%s'.", level[0])
	}
	s.opts.think, s.thinkChosen = think, true
	info, err := s.client.Show(ctx, &api.ShowRequest{Model: s.opts.model})
	if err == nil && !slices.Contains(info.Capabilities, model.CapabilityThinking) {
		fmt.Fprintf(s.c.err, "warning: model %q does not support thinking output\n", s.opts.model)
	}
	fmt.Fprintln(s.c.out, said)
	return ctx.Err()
}

// setParameter sets an option of the engine: its name and its value or values.
func (s *session) setParameter(args []string) {
	if len(args) < 2 {
		fmt.Fprint(s.c.err, helpParameters)
		return
	}
	name, values := args[0], args[1:]
	parsed, err := api.FormatParams(map[string][]string{name: values})
	if err != nil {
		fmt.Fprintf(s.c.out, "Couldn't set parameter: %q\n", err)
		return
	}
	options := maps.Clone(s.opts.options)
	options[name] = parsed[name]
	s.opts.options = options
	fmt.Fprintf(s.c.out, "Set parameter '%s' to '%s'\n", name, strings.Join(values, ", "))
}

// setSystemLine sets the system message, or begins one that """ has opened.
func (s *session) setSystemLine(ctx context.Context, line string) error {
	if rest, ok := strings.CutPrefix(line, fence); ok {
		s.block = systemBlock
		return s.continueBlock(ctx, rest)
	}
	s.setSystem(line)
	return nil
}
