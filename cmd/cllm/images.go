package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/ollama/ollama/api"
)

const maxImageBytes = 100 << 20

var (
	// imagePath finds what may be the path of an image in a prompt: from /, ./ or
	// ../ to an image's ending. Spaces are part of it, as people do not always
	// escape them; so it may begin too early, see imageAt.
	imagePath = regexp.MustCompile(`(?i)\.{0,2}/[^\n]+?\.(?:jpe?g|png|webp)\b`)

	// pathStart is where another path may begin inside one with spaces.
	pathStart = regexp.MustCompile(`\s\.{0,2}/`)

	// shellEscape is a character behind a backslash.
	shellEscape = regexp.MustCompile(`\\([ ()\[\]{}$&;'\\*?~])`)

	imageTypes = []string{"image/jpeg", "image/png", "image/webp"}
)

// takeImages reads the images whose paths stand in a prompt and cuts the paths
// out of it. What names no file stays as it is.
func takeImages(notes io.Writer, prompt string) (string, []api.ImageData, error) {
	var images []api.ImageData
	for _, found := range imagePath.FindAllString(prompt, -1) {
		written, path, data, err := imageAt(found)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("couldn't read image %s: %w", path, err)
		}
		fmt.Fprintf(notes, "Added image '%s'\n", path)
		for _, text := range []string{"'" + path + "'", "'" + written + "'", written} {
			prompt = strings.ReplaceAll(prompt, text, "")
		}
		images = append(images, data)
	}
	return strings.TrimSpace(prompt), images, nil
}

// imageAt reads the image that a text which ends like an image names: the longest
// path in it that exists. It returns the path as written and as the file system
// knows it.
func imageAt(text string) (written, path string, data api.ImageData, err error) {
	for {
		path = shellEscape.ReplaceAllString(text, "$1")
		data, err = readImage(path)
		next := pathStart.FindStringIndex(text)
		if next == nil || !errors.Is(err, os.ErrNotExist) {
			return text, path, data, err
		}
		text = text[next[0]+1:]
	}
}

// startsWithImage tells whether a line that begins with a slash begins with the
// path of an image, and so is no command.
func startsWithImage(line string) bool {
	at := imagePath.FindStringIndex(line)
	return at != nil && at[0] == 0
}

func readImage(path string) (api.ImageData, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil, os.ErrNotExist // a guess from a prompt fails in many ways
	}
	if info.Size() > maxImageBytes {
		return nil, errors.New("file size exceeds maximum limit (100MB)")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if kind := http.DetectContentType(data); !slices.Contains(imageTypes, kind) {
		return nil, fmt.Errorf("invalid image type: %s", kind)
	}
	return data, nil
}
