package modelstore

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ollama/ollama/fs/ggml"
)

// moreTypes are the types that llama.cpp makes beyond Ollama's, by the names that may
// be used for them. All of them do without an importance matrix.
var moreTypes = map[string]string{
	"Q4_0": "Q4_0", "Q4_1": "Q4_1", "Q5_0": "Q5_0", "Q5_1": "Q5_1",
	"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q3_K_S": "Q3_K_S", "Q3_K_M": "Q3_K_M", "Q3_K_L": "Q3_K_L",
	"Q5_K": "Q5_K_M", "Q5_K_S": "Q5_K_S", "Q5_K_M": "Q5_K_M", "Q6_K": "Q6_K",
	"IQ3_S": "IQ3_S", "IQ3_M": "IQ3_M", "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS",
	"TQ1_0": "TQ1_0", "TQ2_0": "TQ2_0",
}

// quantType is the type that a request names. The error of an unknown one is Ollama's.
func quantType(want string) (string, error) {
	kind, err := ggml.ParseFileType(want)
	if err == nil {
		return kind.String(), nil
	}
	if name, ok := moreTypes[want]; ok {
		return name, nil
	}
	return "", badRequestf("%w", err)
}

// quantize replaces the weights by quantized ones, if the request asks for it.
func (c *creation) quantize() error {
	want := strings.ToUpper(c.req.Quantization)
	if want == "" {
		return nil
	}
	for i, l := range c.layers {
		if l.info == nil || l.MediaType != mediaModel {
			continue
		}
		typ, err := quantType(want)
		if err != nil {
			return err
		}
		// Ollama takes no BF16; llama.cpp does.
		if !slices.Contains([]string{"F16", "F32", "BF16"}, l.info.FileType) {
			return badRequestf("quantization is only supported for F16 and F32 models")
		}
		if l.info.FileType == typ {
			continue
		}
		if c.layers[i], err = c.quantizeLayer(l, typ, want); err != nil {
			return err
		}
	}
	return nil
}

// quantizeLayer makes a new layer of weights. want is the type as the request names it.
func (c *creation) quantizeLayer(l *newLayer, typ, want string) (*newLayer, error) {
	if c.req.Quantize == nil {
		return nil, badRequestf("this program can't quantize: quantize the model with llama.cpp's llama-quantize and create it from the result")
	}
	return c.newFile("quantizing the model", l.MediaType, func(f *os.File) error {
		err := c.req.Quantize(c.ctx, c.store.BlobPath(l.Digest), f.Name(), typ, func(done, total int64) {
			c.progress(Progress{
				Status: fmt.Sprintf("quantizing %s model to %s", l.info.FileType, want),
				Digest: anyDigest, Total: l.Size, Completed: share(done, total, l.Size),
			})
		})
		if err == nil {
			c.progress(Progress{Status: "verifying conversion"})
		} else if _, e := c.store.statBlob(l.Digest); isNotExist(e) {
			return c.store.blobError(Name{}, l.Digest, e) // another program has removed it
		}
		return err
	})
}

// share scales done of total to size.
func share(done, total, size int64) int64 {
	if total <= 0 {
		return 0
	}
	return int64(float64(min(done, total)) / float64(total) * float64(size))
}
