package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mattn/go-runewidth"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/format"
	"github.com/spf13/cobra"
)

// proseWidth is the column width of system, template and license texts.
const proseWidth = 100

func showCommand(c *console) *cobra.Command {
	var license, modelfile, parameters, template, system, verbose bool
	cmd := &cobra.Command{
		Use:   "show MODEL",
		Short: "Show information for a model",
		Args:  cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&license, "license", false, "Show license of a model")
	cmd.Flags().BoolVar(&modelfile, "modelfile", false, "Show Modelfile of a model")
	cmd.Flags().BoolVar(&parameters, "parameters", false, "Show parameters of a model")
	cmd.Flags().BoolVar(&template, "template", false, "Show template of a model")
	cmd.Flags().BoolVar(&system, "system", false, "Show system message of a model")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Show detailed model information")

	cmd.RunE = withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
		parts := 0
		for _, wanted := range []bool{license, modelfile, parameters, template, system} {
			if wanted {
				parts++
			}
		}
		if parts > 1 {
			return errors.New("only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified")
		}
		info, err := client.Show(cmd.Context(), &api.ShowRequest{Model: args[0], Verbose: verbose})
		if err != nil {
			return err
		}
		switch {
		case license:
			fmt.Fprintln(c.out, info.License)
		case modelfile:
			fmt.Fprintln(c.out, info.Modelfile)
		case parameters:
			fmt.Fprintln(c.out, info.Parameters)
		case system:
			fmt.Fprint(c.out, info.System)
		case template:
			fmt.Fprint(c.out, info.Template)
		default:
			writeInfo(c.out, info, verbose)
		}
		return nil
	})
	return cmd
}

// writeInfo prints what is known of a model, one headed table per subject.
func writeInfo(w io.Writer, info *api.ShowResponse, verbose bool) {
	section(w, "Model", 0, modelRows(info))
	if len(info.Capabilities) > 0 {
		var rows [][]string
		for _, capability := range info.Capabilities {
			rows = append(rows, []string{capability.String()})
		}
		section(w, "Capabilities", 0, rows)
	}
	if info.ProjectorInfo != nil {
		section(w, "Projector", 0, projectorRows(info.ProjectorInfo))
	}
	if info.Parameters != "" {
		var rows [][]string
		for line := range strings.Lines(info.Parameters) {
			if words := strings.Fields(line); len(words) > 0 {
				rows = append(rows, words)
			}
		}
		section(w, "Parameters", 0, rows)
	}
	if verbose && info.ModelInfo != nil {
		var rows [][]string
		for _, key := range slices.Sorted(maps.Keys(info.ModelInfo)) {
			rows = append(rows, []string{key, metadataText(info.ModelInfo[key])})
		}
		section(w, "Metadata", 0, rows)
	}
	if verbose && len(info.Tensors) > 0 {
		var rows [][]string
		for _, t := range info.Tensors {
			rows = append(rows, []string{t.Name, t.Type, fmt.Sprint(t.Shape)})
		}
		section(w, "Tensors", 0, rows)
	}
	if info.System != "" {
		section(w, "System", proseWidth, firstLines(info.System, 2))
	}
	if info.License != "" {
		section(w, "License", proseWidth, firstLines(info.License, 2))
	}
}

// section prints a header and its rows, indented. width is the widest a column
// may get before its text is wrapped, 0 for the table's own choice.
func section(w io.Writer, header string, width int, rows [][]string) {
	fmt.Fprintln(w, " ", header)
	table := newTable(w)
	if width > 0 {
		table.SetColWidth(width)
	}
	for _, row := range rows {
		table.Append(append([]string{""}, row...)) // the empty column is the indent
	}
	table.Render()
	fmt.Fprintln(w)
}

func modelRows(info *api.ShowResponse) (rows [][]string) {
	add := func(key, value string) { rows = append(rows, []string{key, value}) }
	addKnown := func(key, value string) {
		if value != "" {
			add(key, value)
		}
	}
	if info.RemoteHost != "" {
		add("Remote model", info.RemoteModel)
		add("Remote URL", info.RemoteHost)
	}
	if info.ModelInfo != nil {
		arch, _ := info.ModelInfo["general.architecture"].(string)
		addKnown("architecture", arch)
		parameters := info.Details.ParameterSize
		if count, ok := info.ModelInfo["general.parameter_count"].(float64); ok && parameters == "" {
			parameters = format.HumanNumber(uint64(count))
		}
		addKnown("parameters", parameters)
		addKnown("context length", wholeNumber(info.ModelInfo[arch+".context_length"]))
		addKnown("embedding length", wholeNumber(info.ModelInfo[arch+".embedding_length"]))
	} else {
		add("architecture", info.Details.Family)
		add("parameters", info.Details.ParameterSize)
	}
	add("quantization", info.Details.QuantizationLevel)
	addKnown("requires", info.Requires)
	return rows
}

// projectorRows lists what a projector's metadata has of the four known keys.
func projectorRows(kv map[string]any) (rows [][]string) {
	arch, _ := kv["general.architecture"].(string)
	rows = append(rows, []string{"architecture", arch})
	if count, ok := kv["general.parameter_count"].(float64); ok {
		rows = append(rows, []string{"parameters", format.HumanNumber(uint64(count))})
	}
	for _, known := range [][2]string{
		{"embedding length", arch + ".vision.embedding_length"},
		{"dimensions", arch + ".vision.projection_dim"},
	} {
		if value := wholeNumber(kv[known[1]]); value != "" {
			rows = append(rows, []string{known[0], value})
		}
	}
	return rows
}

// wholeNumber writes a JSON number without an exponent, "" if v is none.
func wholeNumber(v any) string {
	f, ok := v.(float64)
	if !ok {
		return ""
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// metadataText writes one value of a model's metadata for a table column: of an
// array only the first items, as vocabularies have more than 100 000.
func metadataText(v any) string {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v)
	case string:
		return v
	case float64:
		return fmt.Sprintf("%g", v)
	case []any:
		const room = 10 // cells, the opening bracket and separators included
		shown, width := 0, 1
		for i, item := range v {
			width += runewidth.StringWidth(fmt.Sprint(item))
			if i > 0 {
				width += len(", ")
				if width > room {
					break
				}
			}
			shown++
		}
		text := fmt.Sprint(v[:shown])
		if shown < len(v) {
			text = fmt.Sprintf("%s ...+%d more]", strings.TrimSuffix(text, "]"), len(v)-shown)
		}
		return text
	default:
		return fmt.Sprintf("%T", v)
	}
}

// firstLines returns the first n lines of text that are not empty, each a row,
// and a row of dots where there are more.
func firstLines(text string, n int) (rows [][]string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case len(rows) == n:
			return append(rows, []string{"..."})
		default:
			rows = append(rows, []string{line})
		}
	}
	return rows
}
