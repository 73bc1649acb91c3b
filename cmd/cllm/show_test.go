package main

import (
	"net/http"
	"testing"
)

const fullShow = `{
	"license":"MIT License\n\nCopyright someone\nmore","modelfile":"FROM /blob","system":"You are terse.",
	"parameters":"stop                           \"<|im_end|>\"\ntemperature                    0.6",
	"template":"{{ .Prompt }}","requires":"0.14.0",
	"details":{"family":"qwen3","parameter_size":"751.63M","quantization_level":"Q4_K_M"},
	"model_info":{"general.architecture":"qwen3","general.parameter_count":751632384,"general.on":true,
		"qwen3.context_length":40960,"qwen3.embedding_length":1024,"qwen3.rope":1e6,
		"tokenizer.ggml.tokens":["!","\"","#","$","%"],"tokenizer.ggml.none":null,"tokenizer.ggml.few":[1,2]},
	"projector_info":{"general.architecture":"clip","general.parameter_count":133700000,
		"clip.vision.embedding_length":1280,"clip.vision.projection_dim":2048},
	"tensors":[{"name":"output.weight","type":"Q6_K","shape":[1024,151936]}],
	"capabilities":["completion","tools","thinking"]}`

func TestShowPrintsOllamasTables(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(fullShow)})
	wantResult(t, cllm("", "show", "qwen3"), result{Out: `  Model
    architecture        qwen3      
    parameters          751.63M    
    context length      40960      
    embedding length    1024       
    quantization        Q4_K_M     
    requires            0.14.0     

  Capabilities
    completion    
    tools         
    thinking      

  Projector
    architecture        clip       
    parameters          133.70M    
    embedding length    1280       
    dimensions          2048       

  Parameters
    stop           "<|im_end|>"    
    temperature    0.6             

  System
    You are terse.    

  License
    MIT License          
    Copyright someone    
    ...                  

`})
	d.wantJSON("POST /api/show", `{"model":"qwen3","name":"","system":"","template":"","options":null,"verbose":false}`)
}

func TestShowVerboseAddsMetadataAndTensors(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(`{
		"details":{"family":"test","parameter_size":"7B","quantization_level":"FP16"},
		"model_info":{"general.architecture":"test","general.on":true,"test.rope":1e6,"test.none":null,
			"tokenizer.ggml.tokens":["!","ab","#","$","%"],"tokenizer.ggml.long":["more than ten cells","x"],"tokenizer.ggml.few":[1,2]},
		"tensors":[{"name":"output.weight","type":"Q6_K","shape":[1024,151936]}]}`)})
	wantResult(t, cllm("", "show", "-v", "test"), result{Out: `  Model
    architecture    test    
    parameters      7B      
    quantization    FP16    

  Metadata
    general.architecture     test                              
    general.on               true                              
    test.none                <nil>                             
    test.rope                1e+06                             
    tokenizer.ggml.few       [1 2]                             
    tokenizer.ggml.long      [more than ten cells ...+1        
                               more]                             
    tokenizer.ggml.tokens    [! ab # ...+2 more]               

  Tensors
    output.weight    Q6_K    [1024 151936]    

`})
}

func TestShowOfAServerWithoutModelInfoUsesTheDetails(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(`{"details":{"family":"test","parameter_size":"7B","quantization_level":"FP16"}}`)})
	wantResult(t, cllm("", "show", "test"), result{Out: `  Model
    architecture    test    
    parameters      7B      
    quantization    FP16    

`})
}

func TestShowPrintsOnePartWhenAskedTo(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(fullShow)})
	for flag, want := range map[string]string{
		"--license":    "MIT License\n\nCopyright someone\nmore\n",
		"--modelfile":  "FROM /blob\n",
		"--parameters": "stop                           \"<|im_end|>\"\ntemperature                    0.6\n",
		"--system":     "You are terse.",
		"--template":   "{{ .Prompt }}",
	} {
		t.Run(flag, func(t *testing.T) { wantResult(t, cllm("", "show", "m", flag), result{Out: want}) })
	}
}

func TestShowRefusesTwoParts(t *testing.T) {
	newDaemon(t, nil)
	wantResult(t, cllm("", "show", "m", "--license", "--system"), result{
		Err:  "Error: only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified\n",
		Code: 1,
	})
}

func TestShowSurvivesAProjectorWithoutItsKeys(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(`{"details":{},"projector_info":{"x":1}}`)})
	if got := cllm("", "show", "m"); got.Code != 0 {
		t.Errorf("got %+v", got)
	}
}
