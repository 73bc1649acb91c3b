package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/format"
	"github.com/spf13/cobra"
)

func listCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:     "list [PREFIX]",
		Aliases: []string{"ls"},
		Short:   "List models",
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return listModels(cmd.Context(), c.out, client, args)
		}),
	}
}

// listModels prints the models whose name begins with args[0], in any case, or
// all of them.
func listModels(ctx context.Context, w io.Writer, client *api.Client, args []string) error {
	models, err := client.List(ctx)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, m := range models.Models {
		if len(args) > 0 && !strings.HasPrefix(strings.ToLower(m.Name), strings.ToLower(args[0])) {
			continue
		}
		size := format.HumanBytes(m.Size)
		if m.RemoteModel != "" {
			size = "-"
		}
		rows = append(rows, []string{m.Name, shortDigest(m.Digest), size, format.HumanTime(m.ModifiedAt, "Never")})
	}
	writeColumns(w, []string{"NAME", "ID", "SIZE", "MODIFIED"}, rows)
	return nil
}

func psCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "ps [PREFIX]",
		Short: "List running models",
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			running, err := client.ListRunning(cmd.Context())
			if err != nil {
				return err
			}
			var rows [][]string
			for _, m := range running.Models {
				if len(args) > 0 && !strings.HasPrefix(m.Name, args[0]) {
					continue
				}
				until := "Stopping..."
				if time.Until(m.ExpiresAt) >= 0 {
					until = format.HumanTime(m.ExpiresAt, "Never")
				}
				rows = append(rows, []string{
					m.Name, shortDigest(m.Digest), format.HumanBytes(m.Size),
					processor(m.Size, m.SizeVRAM), strconv.Itoa(m.ContextLength), until,
				})
			}
			writeColumns(c.out, []string{"NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"}, rows)
			return nil
		}),
	}
}

// processor says how a model of size bytes, vram of them on the GPU, is split.
func processor(size, vram int64) string {
	switch {
	case vram == 0:
		return "100% CPU"
	case vram == size:
		return "100% GPU"
	case vram > size:
		return "Unknown"
	}
	cpu := int(math.Round(float64(size-vram) / float64(size) * 100))
	return fmt.Sprintf("%d%%/%d%% CPU/GPU", cpu, 100-cpu)
}

func copyCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy a model",
		Args:  cobra.ExactArgs(2),
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			if err := client.Copy(cmd.Context(), &api.CopyRequest{Source: args[0], Destination: args[1]}); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "copied '%s' to '%s'\n", args[0], args[1])
			return nil
		}),
	}
}

func removeCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "rm MODEL [MODEL...]",
		Short: "Remove a model",
		Args:  cobra.MinimumNArgs(1),
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			ctx := cmd.Context()
			for _, name := range args {
				// Deleting does not unload, and a model that cannot be stopped can
				// still be deleted.
				if err := unload(ctx, c, client, name); err != nil && !isNotFound(err) {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					fmt.Fprintf(c.err, "Warning: unable to stop model '%s'\n", name)
				}
				if err := client.Delete(ctx, &api.DeleteRequest{Model: name}); err != nil {
					return err
				}
				fmt.Fprintf(c.out, "deleted '%s'\n", name)
			}
			return nil
		}),
	}
}

func stopCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "stop MODEL",
		Short: "Stop a running model",
		Args:  cobra.ExactArgs(1),
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			err := unload(cmd.Context(), c, client, args[0])
			if isNotFound(err) {
				return fmt.Errorf("couldn't find model \"%s\" to stop", args[0])
			}
			return err
		}),
	}
}

// unload asks the daemon to free a model. Work in flight is finished first.
func unload(ctx context.Context, c *console, client *api.Client, name string) error {
	_, err := setResident(ctx, c, client, runOptions{model: name, keepAlive: &api.Duration{}})
	return err
}

// setResident loads a model for its keep_alive, or unloads it when that is 0, and
// returns what the daemon tells about it. Models on another host are left alone.
func setResident(ctx context.Context, c *console, client *api.Client, opts runOptions) (*api.ShowResponse, error) {
	wait := newDisplay(c.err)
	defer wait.clear()
	wait.status("")

	info, err := client.Show(ctx, &api.ShowRequest{Model: opts.model})
	if err != nil || info.RemoteHost != "" {
		return info, err
	}
	// think goes along so that a model which cannot think is refused here, before
	// the user has typed anything.
	req := &api.GenerateRequest{Model: opts.model, KeepAlive: opts.keepAlive, Think: opts.think}
	err = client.Generate(ctx, req, func(api.GenerateResponse) error { return nil })
	if err == nil {
		err = ctx.Err()
	}
	return info, err
}

// writeColumns draws the table of list and ps.
func writeColumns(w io.Writer, header []string, rows [][]string) {
	table := newTable(w)
	table.SetHeader(header)
	table.SetHeaderAlignment(tablewriter.ALIGN_LEFT)
	table.SetHeaderLine(false)
	table.AppendBulk(rows)
	table.Render()
}

// newTable returns a table without lines, columns four spaces apart.
func newTable(w io.Writer) *tablewriter.Table {
	table := tablewriter.NewWriter(w)
	table.SetAlignment(tablewriter.ALIGN_LEFT)
	table.SetBorder(false)
	table.SetNoWhiteSpace(true)
	table.SetTablePadding("    ")
	return table
}

// shortDigest is the part of a digest that people compare: 12 hex digits.
func shortDigest(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(12, len(digest))]
}
