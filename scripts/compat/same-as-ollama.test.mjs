// The same commands and requests to cllm and to Ollama's own server, each with a
// model folder of its own, have the same answers. Ollama's server comes with the real
// ollama command; it has no engine here, so nothing of this needs one.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { assertSameAnswer, neutral } from './compare.mjs'
import { create, gguf, ollama, serve } from './harness.mjs'

const [ours, theirs] = await Promise.all([
  serve({ env: { CLLM_NODEMO: '1' } }),
  serve({ command: ollama, env: { GIN_MODE: 'release' } }),
])

const modelfiles = {
  full: `FROM ${gguf.tiny}
SYSTEM """You are small.
Very small."""
TEMPLATE """{{ if .System }}<s>{{ .System }}</s>{{ end }}{{ .Prompt }}"""
PARAMETER temperature 0.5
PARAMETER stop "a b"
PARAMETER stop <end>
PARAMETER num_predict 24
PARAMETER seed 7
PARAMETER top_k 40
LICENSE MIT
LICENSE "Another one"
MESSAGE user Hello
MESSAGE assistant Hi
`,
  plain: `FROM ${gguf.tiny}\n`,
  derived: 'FROM full\nSYSTEM You are derived.\nPARAMETER temperature 1\nPARAMETER top_p 0.5\n',
  copied: 'FROM full:latest\n',
  messages: 'FROM full\nMESSAGE user Who?\nMESSAGE assistant """Me.\nReally."""\n',
  other: `from ${gguf.tiny}\nsystem lower case\nrequires 0.1.0\n`,
}

async function command(daemon, args, { modelfile, sorted } = {}) {
  if (modelfile !== undefined) {
    const file = path.join(daemon.home, 'Modelfile')
    writeFileSync(file, modelfile)
    args = [...args, '-f', file]
  }
  const { code, stdout, stderr } = await daemon.ollama(args)
  const lines = neutral(daemon, stdout).split('\n').map((line) => line.trimEnd())
  // Every status line that a progress display overwrote counts, not how often it was drawn.
  const steps = [...new Set(neutral(daemon, stderr).split('\n').map((line) => line.trim()).filter(Boolean))]
  // Before an error not every status line gets its turn on the display.
  return { code, stdout: sorted ? lines.sort() : lines, steps: code === 0 ? steps : steps.slice(-1) }
}

async function assertSameCommand(args, options) {
  const [mine, other] = await Promise.all([command(ours, args, options), command(theirs, args, options)])
  assert.deepEqual(mine, other, `ollama ${args.join(' ')}`)
  return mine
}

for (const [name, modelfile] of Object.entries(modelfiles)) {
  test(`create ${name}`, async () => {
    const { code } = await assertSameCommand(['create', name], { modelfile })
    assert.equal(code, 0)
  })
}

/** The manifests by their path, and the names of the blobs. */
function contents(daemon) {
  const manifests = {}
  for (const file of readdirSync(path.join(daemon.store, 'manifests'), { recursive: true, withFileTypes: true })) {
    if (!file.isFile()) continue
    const where = path.join(file.parentPath ?? file.path, file.name)
    manifests[path.relative(daemon.store, where)] = neutral(daemon, readFileSync(where, 'utf8'))
  }
  return { manifests, blobs: readdirSync(path.join(daemon.store, 'blobs')).sort() }
}

test('the model folders hold the same', () => {
  // So ids are the same too: they are the manifests' hashes. A manifest has the path of
  // the file that it was made of, so it has another hash in another folder.
  const mine = contents(ours)
  assert.equal(Object.keys(mine.manifests).length, Object.keys(modelfiles).length)
  assert.deepEqual(mine, contents(theirs))
})

test('list has the same models', async () => {
  const { stdout } = await assertSameCommand(['list'], { sorted: true })
  assert.equal(stdout.filter((line) => line.includes(':latest')).length, Object.keys(modelfiles).length)
  await assertSameCommand(['ls', 'ful'])
})

for (const name of Object.keys(modelfiles)) {
  for (const flag of ['', '--modelfile', '--parameters', '--template', '--system', '--license', '--verbose']) {
    test(`show ${name} ${flag}`, async () => {
      const args = ['show', name, flag].filter(Boolean)
      // Ollama prints parameters in the order of a Go map, which is another one each time.
      await assertSameCommand(args, { sorted: !['--template', '--system', '--license'].includes(flag) })
    })
  }
}

for (const args of [
  ['-v'], ['ps'], ['cp', 'full', 'me/full:v1'], ['cp', 'me/full:v1', 'example.com/me/full:v2'], ['list', 'me/'], ['show', 'ME/FULL:V1', '--system'],
  ['stop', 'full'], ['rm', 'me/full:v1'], ['rm', 'example.com/me/full:v2', 'copied'], ['list', 'copied'],
  ['stop', 'nope'], ['rm', 'nope'], ['rm', 'plain', 'nope', 'full'], ['show', 'nope'], ['cp', 'nope', 'x'], ['cp', 'full', 'a/b/c/d'], ['cp', 'a/b/c/d', 'x'],
  ['show', 'a/b/c/d'], ['rm', 'a/b/c/d'], ['stop', 'a/b/c/d'], ['show', 'full', '--system', '--license'], ['run', 'full', '--think', 'x'],
  ['run', 'full', '--format', 'xml', 'x'],
]) {
  test(args.join(' '), async () => { await assertSameCommand(args, { sorted: args[0] === 'list' }) })
}

for (const [why, modelfile] of Object.entries({
  'no FROM': 'SYSTEM hi\n',
  'an unknown instruction': 'FROM full\nNOPE x\n',
  'a template that does not parse': 'FROM full\nTEMPLATE {{ .Prompt\n',
  'a parameter of the wrong type': 'FROM full\nPARAMETER num_ctx many\n',
  'a role that there is not': 'FROM full\nMESSAGE robot hi\n',
  'a file that there is not': 'FROM ./nope.gguf\n',
})) {
  test(`create with ${why}`, async () => {
    const { code } = await assertSameCommand(['create', 'bad'], { modelfile })
    assert.equal(code, 1)
  })
}

test('models made by the API alone are the same', async () => {
  const more = { file: gguf.tiny, system: 'S', template: '{{ .Prompt }}', license: ['A', 'B'], parameters: { stop: ['x'], top_k: 3 } }
  await Promise.all([ours, theirs].map((daemon) => create(daemon, 'api', more)))
  assert.deepEqual(contents(ours), contents(theirs))
})

test('create quantizes in the same steps', async () => {
  const body = { model: 'packed', from: 'full', quantize: 'q8_0' }
  const steps = await Promise.all([ours, theirs].map(async (daemon) => {
    const { text } = await daemon.request('POST', '/api/create', body)
    return [...new Set(text.trim().split('\n').map((line) => JSON.parse(line).status.replace(/[0-9a-f]{64}/, 'DIGEST')))]
  }))
  assert.deepEqual(steps[0], steps[1])
  assert.equal(steps[0].at(-1), 'success')
  await assertSameCommand(['show', 'packed'], { sorted: true })
  await assertSameCommand(['rm', 'packed'])
})

test('a model of 32-bit numbers is called so; Ollama takes the type 0 for none', async () => {
  await Promise.all([ours, theirs].map((daemon) => create(daemon, 'embed')))
  const shown = await Promise.all([ours, theirs].map(async (daemon) => JSON.parse((await daemon.request('POST', '/api/show', { model: 'embed' })).text)))
  assert.deepEqual(shown.map((one) => one.details.quantization_level), ['F32', 'unknown'])
  assert.deepEqual(shown[0].capabilities, shown[1].capabilities)
  await Promise.all([ours, theirs].map((daemon) => daemon.request('DELETE', '/api/delete', { model: 'embed' })))
})

// Requests. A third element that is a string is sent as it is.
const user = [{ role: 'user', content: 'hi' }]
const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object', properties: {} } } }]
const digest = `sha256:${'0'.repeat(64)}`
const requests = [
  ['GET', '/'], ['HEAD', '/'], ['GET', '/api/version'], ['HEAD', '/api/version'], ['HEAD', '/api/tags'], ['GET', '/api/tags'], ['GET', '/api/ps'],
  ['GET', '/v1/models'], ['GET', '/v1/models/full'], ['GET', '/v1/models/nope'],
  ['GET', '/nope'], ['POST', '/nope'], ['HEAD', '/api/ps'], ['PUT', '/api/chat', {}], ['GET', '/api/chat'], ['DELETE', '/api/tags'],

  ['POST', '/api/chat/', {}], ['GET', '/api/tags/'], ['GET', '//api/tags'], ['GET', '/v1/models/a/b'],
  ...['http://localhost:3000', 'https://127.0.0.1', 'http://0.0.0.0', 'app://x', 'file://x', 'tauri://x', 'vscode-webview://x', 'chrome-extension://x', 'https://example.com', 'null', 'x']
    .flatMap((origin) => [['GET', '/api/version', undefined, { origin }], ['OPTIONS', '/api/chat', undefined, { origin, 'access-control-request-method': 'POST' }]]),
  ['GET', '/api/status'], ['GET', '/api/experimental/aliases'], ['POST', '/api/experimental/aliases', { alias: 'short', target: 'full' }],
  ['POST', '/api/show', { model: 'short' }], ['POST', '/api/experimental/aliases', {}], ['DELETE', '/api/experimental/aliases', { alias: 'short' }],
  ['DELETE', '/api/experimental/aliases', { alias: 'short' }], ['GET', '/api/experimental/aliases'],
  ['OPTIONS', '/api/chat'], ['OPTIONS', '/nope'],
  ...['localhost', 'example.com', 'x.localhost', 'x.local', 'x.internal', '10.0.0.1', '8.8.8.8', '[::1]:11434', 'example.com:11434', 'a b']
    .map((host) => ['GET', '/api/version', undefined, { host }]),

  ['POST', '/api/show', { model: 'full' }], ['POST', '/api/show', { name: 'full', verbose: true }],
  ['POST', '/api/show', { model: 'full', system: 'X' }], ['POST', '/api/show', {}], ['POST', '/api/show', { model: 'nope' }],
  ['POST', '/api/show', { model: 'a/b/c/d' }], ['POST', '/api/show', ''], ['POST', '/api/show', '{'], ['POST', '/api/show', '[]'],

  ['POST', '/api/generate', ''], ['POST', '/api/generate', '{"model":'], ['POST', '/api/generate', { model: 1 }], ['POST', '/api/generate', {}],
  ['POST', '/api/generate', { model: 'nope', prompt: 'x' }], ['POST', '/api/generate', { model: 'a/b/c/d', prompt: 'x' }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', raw: true, system: 'y' }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', raw: true, template: 'y' }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', suffix: 'y' }], ['POST', '/api/generate', { model: 'full', prompt: 'x', think: true }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', think: 'max' }], ['POST', '/api/generate', { model: 'full', prompt: 'x', think: 3 }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', think: 'high' }], ['POST', '/api/generate', { model: 'full', prompt: 'x', images: ['!'] }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', options: { num_ctx: 'many' } }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', options: { temperature: 'hot' } }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', keep_alive: '10' }], ['POST', '/api/generate', { model: 'full', prompt: 'x', keep_alive: true }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', top_logprobs: 21, logprobs: true }],
  ['POST', '/api/generate', { model: 'full', prompt: 'x', top_logprobs: -1, logprobs: true }],
  ['POST', '/api/generate', { model: 'full', keep_alive: 0 }], ['POST', '/api/generate', { model: 'nope', keep_alive: 0 }],

  ['POST', '/api/chat', ''], ['POST', '/api/chat', 'no json'], ['POST', '/api/chat', {}], ['POST', '/api/chat', { messages: user }],
  ['POST', '/api/chat', { model: 'nope', messages: user }], ['POST', '/api/chat', { model: 'a/b/c/d', messages: user }],
  ['POST', '/api/chat', { model: 'full', messages: 'hi' }], ['POST', '/api/chat', { model: 'full', messages: user, tools }],
  ['POST', '/api/chat', { model: 'full', messages: user, tools: {} }], ['POST', '/api/chat', { model: 'full', messages: user, think: true }],
  ['POST', '/api/chat', { model: 'full', messages: user, think: 'low' }], ['POST', '/api/chat', { model: 'full', messages: user, think: 'x' }],
  ['POST', '/api/chat', { model: 'full', messages: user, options: { seed: 'x' } }], ['POST', '/api/chat', { model: 'full', messages: user, keep_alive: '' }],
  ['POST', '/api/chat', { model: 'full', messages: user, logprobs: true, top_logprobs: 99 }],
  ['POST', '/api/chat', { model: 'full', messages: [], keep_alive: 0 }], ['POST', '/api/chat', { model: 'full', keep_alive: '0s' }],

  ['POST', '/api/embed', ''], ['POST', '/api/embed', {}], ['POST', '/api/embed', { model: 'nope', input: 'x' }], ['POST', '/api/embed', { model: 'a/b/c/d', input: 'x' }],
  ['POST', '/api/embed', { model: 'full', input: 1 }], ['POST', '/api/embed', { model: 'full', input: [1] }], ['POST', '/api/embed', { model: 'full', input: { a: 1 } }],
  ['POST', '/api/embeddings', ''], ['POST', '/api/embeddings', {}], ['POST', '/api/embeddings', { model: 'nope', prompt: 'x' }], ['POST', '/api/embeddings', { model: 'full', prompt: 1 }],

  ['POST', '/api/copy', ''], ['POST', '/api/copy', { source: 'nope', destination: 'x' }], ['POST', '/api/copy', { source: 'a/b/c/d', destination: 'x' }],
  ['POST', '/api/copy', { source: 'full', destination: 'a/b/c/d' }], ['POST', '/api/copy', {}], ['POST', '/api/copy', { source: 'full', destination: 'two' }],
  ['DELETE', '/api/delete', ''], ['DELETE', '/api/delete', {}], ['DELETE', '/api/delete', { model: 'nope' }], ['DELETE', '/api/delete', { model: 'a/b/c/d' }],
  ['DELETE', '/api/delete', { name: 'two' }],

  ['HEAD', `/api/blobs/${digest}`], ['HEAD', '/api/blobs/nope'], ['POST', `/api/blobs/${digest}`, 'x'], ['POST', '/api/blobs/nope', 'x'],
  ['POST', '/api/create', ''], ['POST', '/api/create', {}], ['POST', '/api/create', { model: 'x' }], ['POST', '/api/create', { model: 'a/b/c/d', from: 'full' }],
  ['POST', '/api/create', { model: 'x', files: { '../a.gguf': digest } }], ['POST', '/api/create', { model: 'x', files: { 'a.gguf': digest } }],
  ['POST', '/api/create', { model: 'x', from: 'full', template: '{{ .X' }], ['POST', '/api/create', { model: 'x', from: 'full', template: '{{ .X', stream: false }],
  ['POST', '/api/create', { model: 'x', from: 'full', quantize: 'Q9' }],

  ['POST', '/v1/chat/completions', ''], ['POST', '/v1/chat/completions', { model: 'full', messages: [] }], ['POST', '/v1/chat/completions', { model: 'full' }],
  ['POST', '/v1/chat/completions', { model: 'full', messages: [{ role: 'user' }] }], ['POST', '/v1/chat/completions', { model: 'full', messages: [{ role: 'user', content: 1 }] }],
  ['POST', '/v1/chat/completions', { model: 'full', messages: user, reasoning_effort: 'lots' }],
  ['POST', '/v1/completions', ''], ['POST', '/v1/completions', { model: 'full', prompt: 1 }],
  ['POST', '/v1/embeddings', ''], ['POST', '/v1/embeddings', { model: 'full' }], ['POST', '/v1/embeddings', { model: 'full', input: [] }], ['POST', '/v1/embeddings', { model: 'full', input: [[1, 2]] }],
  ['POST', '/v1/embeddings', { model: 'full', input: 'x', encoding_format: 'x' }],
  ['POST', '/v1/responses', ''], ['POST', '/v1/responses', { model: 'full', input: 1 }],
  ['POST', '/v1/messages', ''], ['POST', '/v1/messages', {}], ['POST', '/v1/messages', { model: 'full', messages: user }], ['POST', '/v1/messages', { model: 'full', max_tokens: 9 }],
  ['POST', '/v1/messages', { model: 'full', max_tokens: -1, messages: user }], ['POST', '/v1/messages', { model: 'nope', max_tokens: 9, messages: user }],
]

/** Where the answers differ knowingly, as docs/api.md says. */
const differs = new Map([
  ['GET /v1/models/nope', 'the type follows the status'],
  ['POST /v1/embeddings {"model":"full","input":[[1,2]]}', 'the type follows the status'],
  ['POST /api/create {"model":"x","from":"full","quantize":"Q9"}', 'a mistake of the client is a 400'],
  [`POST /api/create {"model":"x","files":{"a.gguf":"${digest}"}}`, 'the error says what to do, and not where the models are'],
])

for (const request of requests) {
  const [method, route, body, headers] = request
  const name = `${method} ${route} ${typeof body === 'object' ? JSON.stringify(body) : body ?? ''} ${headers ? JSON.stringify(headers) : ''}`.trim()
  test(name, () => assertSameAnswer(ours, theirs, request, differs.get(name)))
}
