package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var pngHeader = []byte("\x89PNG\r\n\x1a\n")

func TestImagePathsLeaveThePromptAndOthersStay(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one.png", "with space.JPG", "par(en).webp"} {
		data := pngHeader
		switch filepath.Ext(name) {
		case ".JPG":
			data = []byte("\xff\xd8\xff\xe0")
		case ".webp":
			data = []byte("RIFF\x00\x00\x00\x00WEBPVP8 ")
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.png"), 0o700); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		prompt, want string
		images       int
	}{
		"plain":               {"see DIR/one.png please", "see  please", 1},
		"quoted":              {"see 'DIR/one.png' please", "see  please", 1},
		"space unescaped":     {"DIR/with space.JPG?", "?", 1},
		"space escaped":       {`DIR/with\ space.JPG?`, "?", 1},
		"other escapes":       {`DIR/par\(en\).webp`, "", 1},
		"two":                 {"DIR/one.png and DIR/with space.JPG", "and", 2},
		"a path before it":    {"compare /etc/hosts with DIR/one.png", "compare /etc/hosts with", 1},
		"none there":          {"see /no/such.png", "see /no/such.png", 0},
		"a folder":            {"see DIR/folder.png", "see DIR/folder.png", 0},
		"no path":             {"either/or", "either/or", 0},
		"too long for a name": {"a/" + strings.Repeat("b", 5000) + ".png", "a/" + strings.Repeat("b", 5000) + ".png", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			prompt := strings.ReplaceAll(test.prompt, "DIR", dir)
			got, images, err := takeImages(io.Discard, prompt)
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.ReplaceAll(test.want, "DIR", dir); got != want || len(images) != test.images {
				t.Errorf("got %q with %d images, want %q with %d", got, len(images), want, test.images)
			}
		})
	}
}

func TestFilesThatOnlyLookLikeImagesAreRefused(t *testing.T) {
	dir := t.TempDir()
	fake, empty, large := filepath.Join(dir, "fake.png"), filepath.Join(dir, "empty.png"), filepath.Join(dir, "large.png")
	for path, data := range map[string][]byte{fake: []byte("text"), empty: nil, large: pngHeader} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(large, maxImageBytes+1); err != nil { // sparse
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		fake:  "invalid image type: text/plain; charset=utf-8",
		empty: "invalid image type: text/plain; charset=utf-8",
		large: "file size exceeds maximum limit (100MB)",
	} {
		_, _, err := takeImages(io.Discard, "see "+path)
		if want = "couldn't read image " + path + ": " + want; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestOnlyImagePathsAtTheStartAreNoCommands(t *testing.T) {
	for line, want := range map[string]bool{
		"/tmp/a.png what is it": true, "/bye": false, "/set think": false, "what is /tmp/a.png": false,
	} {
		if got := startsWithImage(line); got != want {
			t.Errorf("startsWithImage(%q) = %v", line, got)
		}
	}
}

func FuzzPromptsWithoutImagesStayAsTheyAre(f *testing.F) {
	for _, seed := range []string{"", "/a.png", "./a b.jpeg /c", `/\ .webp`, "\x00/x.png", "../..//.png"} {
		f.Add(seed)
	}
	f.Chdir(f.TempDir())
	f.Fuzz(func(t *testing.T, prompt string) {
		var notes bytes.Buffer
		got, images, err := takeImages(&notes, prompt)
		if err != nil {
			t.Fatal(err)
		}
		if len(images) != 0 || notes.Len() != 0 || got != strings.TrimSpace(prompt) {
			t.Errorf("%q became %q with %d images", prompt, got, len(images))
		}
	})
}
