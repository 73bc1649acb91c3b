// The real ollama command, against a daemon of its own. What it prints is its own
// text; here it shows that the daemon gives it what it needs.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import {
  assertSlotsFree, assertUnitVector, busyDaemon, busyText, expected, gguf, INTERRUPT, ollama, plain, run, serve,
} from './harness.mjs'

const daemon = await serve({ models: ['tiny', 'embed'] })
const { question, answer } = expected

/** Runs the command and asserts that it succeeds. */
async function ok(...args) {
  const options = typeof args.at(-1) === 'object' ? args.pop() : {}
  const result = await daemon.ollama(args, options)
  assert.equal(result.code, 0, `ollama ${args.join(' ')}: ${result.stdout}${result.stderr}`)
  return result
}

/** Runs the command and asserts that it fails with a line of this text at the end. */
async function fails(text, args, options) {
  const result = await daemon.ollama(args, options)
  assert.deepEqual([result.code, result.stderr.trim().split('\n').at(-1)], [1, `Error: ${text}`])
}

/** A table as a list of objects. */
function table(text) {
  const rows = text.trimEnd().split('\n').map((line) => line.trim().split(/ {2,}/))
  return rows.slice(1).map((row) => Object.fromEntries(row.map((cell, i) => [rows[0][i], cell])))
}

const lines = (text) => text.split('\n').map((line) => line.trimEnd())

/** What the model folder says of a model: the digest and size of its manifest. */
function manifest(name) {
  const bytes = readFileSync(path.join(daemon.store, 'manifests/registry.ollama.ai/library', ...name.split(':')))
  const { config, layers } = JSON.parse(bytes)
  const size = [config, ...layers].reduce((sum, layer) => sum + layer.size, 0)
  return { id: createHash('sha256').update(bytes).digest('hex').slice(0, 12), size: human(size) }
}

/** Bytes as Ollama writes them: three figures at most, none of them a rounded up one. */
function human(bytes) {
  const unit = ['B', 'KB', 'MB', 'GB'][Math.min(3, Math.floor(Math.log10(bytes) / 3))]
  const value = bytes / 1000 ** ['B', 'KB', 'MB', 'GB'].indexOf(unit)
  return `${value >= 10 || Number.isInteger(value) ? Math.floor(value) : value.toFixed(1)} ${unit}`
}

function modelfile(text) {
  const file = path.join(daemon.home, 'Modelfile')
  writeFileSync(file, text)
  return file
}

test('-v prints the version, and no warning', async () => {
  assert.deepEqual(await ok('-v'), { code: 0, signal: null, stdout: 'ollama version is 0.17.4\n', stderr: '' })
})

test('create makes a model of a file, and tells its steps', async () => {
  const from = `FROM ${gguf.tiny}
SYSTEM You are small.
TEMPLATE """{{ .System }} {{ .Prompt }}"""
PARAMETER temperature 0
PARAMETER stop <end>
PARAMETER num_predict 24
LICENSE MIT
MESSAGE user Hello
MESSAGE assistant Hi
`
  const { stderr } = await ok('create', 'small', '-f', modelfile(from))
  for (const step of ['parsing GGUF', 'creating new layer sha256:', 'writing manifest', 'success']) assert.ok(stderr.includes(step), `${step}: ${stderr}`)
})

test('create makes a model of a model', async () => {
  const { stderr } = await ok('create', 'pirate', '-f', modelfile('FROM demo\nSYSTEM You are a pirate.\n'))
  assert.ok(stderr.includes('using existing layer sha256:'), stderr)
  assert.equal((await ok('show', 'pirate', '--system')).stdout.trim(), 'You are a pirate.')
})

test('create quantizes', async () => {
  await ok('create', 'packed', '-q', 'q8_0', '-f', modelfile(`FROM ${gguf.tiny}\n`))
  assert.match((await ok('show', 'packed')).stdout, /quantization +Q8_0/)
})

test('list has each model with the id of its manifest, its size and its age', async () => {
  for (const command of ['list', 'ls']) {
    const { stdout } = await ok(command)
    assert.match(stdout, /^NAME +ID +SIZE +MODIFIED *\n/)
    const rows = table(stdout)
    assert.deepEqual(rows.map((row) => row.NAME).sort(), ['demo', 'embed', 'packed', 'pirate', 'small', 'tiny'].map((name) => `${name}:latest`))
    for (const { NAME, ID, SIZE, MODIFIED } of rows) {
      assert.deepEqual({ id: ID, size: SIZE }, manifest(NAME))
      assert.match(MODIFIED, /^(Less than a second|\d+ seconds?|(About a|\d+) minutes?) ago$/)
    }
  }
  assert.deepEqual(table((await ok('list', 'PA')).stdout).map((row) => row.NAME), ['packed:latest'])
})

test('show prints the model', async () => {
  const { stdout } = await ok('show', 'small')
  assert.deepEqual(lines(stdout), [
    '  Model', '    architecture        qwen3', '    parameters          92K', '    context length      1024',
    '    embedding length    64', '    quantization        F16', '',
    '  Capabilities', '    completion', '',
    '  Parameters', '    num_predict    24', '    stop           "<end>"', '    temperature    0', '',
    '  System', '    You are small.', '',
    '  License', '    MIT', '', '',
  ])
})

test('each flag of show prints one part', async () => {
  assert.equal((await ok('show', 'small', '--system')).stdout, 'You are small.')
  assert.equal((await ok('show', 'small', '--template')).stdout, '{{ .System }} {{ .Prompt }}')
  assert.equal((await ok('show', 'small', '--license')).stdout, 'MIT\n')
  assert.deepEqual(lines((await ok('show', 'small', '--parameters')).stdout).sort(), [
    '', 'num_predict                    24', 'stop                           "<end>"', 'temperature                    0',
  ])
  assert.deepEqual(lines((await ok('show', 'small', '--modelfile')).stdout), [
    '# Modelfile generated by "ollama show"', '# To build a new Modelfile based on this, replace FROM with:', '# FROM small:latest', '',
    `FROM ${path.join(daemon.store, 'blobs', `sha256-${createHash('sha256').update(readFileSync(gguf.tiny)).digest('hex')}`)}`,
    'TEMPLATE {{ .System }} {{ .Prompt }}', 'SYSTEM You are small.', 'PARAMETER num_predict 24', 'PARAMETER stop <end>',
    'PARAMETER temperature 0', 'LICENSE MIT', 'MESSAGE user Hello', 'MESSAGE assistant Hi', '', '',
  ])
  await fails("only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified", ['show', 'small', '--system', '--license'])
})

test('show -v prints the metadata and the tensors', async () => {
  const { stdout } = await ok('show', 'small', '-v')
  assert.match(stdout, /\n {2}Metadata\n/)
  assert.match(stdout, /\n {4}qwen3\.context_length +1024 *\n/)
  assert.match(stdout, /\n {4}tokenizer\.ggml\.tokens +\[\S+ \S+ \S+ \.\.\.\+\d+ more\] *\n/)
  assert.match(stdout, /\n {2}Tensors\n/)
  assert.match(stdout, /\n {4}blk\.0\.attn_q\.weight +F16 +\[64 128\] *\n/)
})

test('what show prints makes the same model again', async () => {
  const { stdout } = await ok('show', 'small', '--modelfile')
  await ok('create', 'again', '-f', modelfile(stdout))
  assert.equal(manifest('again:latest').size, manifest('small:latest').size)
  assert.equal((await ok('show', 'again')).stdout, (await ok('show', 'small')).stdout)
  await ok('rm', 'again')
})

test('run answers once', async () => {
  assert.equal((await ok('run', 'demo', question)).stdout, `${answer}\n\n`)
  assert.equal((await ok('run', 'demo', '--nowordwrap', ...question.split(' '))).stdout, `${answer}\n\n`)
})

test('run answers what is piped, after what the command line says', async () => {
  assert.equal((await ok('run', 'demo', { stdin: question })).stdout, `${answer}\n\n`)
  const [first, ...rest] = question.split(' ')
  assert.equal((await ok('run', 'demo', rest.join(' '), { stdin: first })).code, 0)
})

test('run --verbose prints how long it took', async () => {
  const { stdout, stderr } = await ok('run', 'demo', '--verbose', question)
  assert.equal(stdout, `${answer}\n\n`)
  const names = stderr.trim().split('\n').map((line) => line.match(/^(.*?): +(.*)$/))
  const rows = Object.fromEntries(names.map(([, name, value]) => [name, value]))
  assert.deepEqual(Object.keys(rows), [
    'total duration', 'load duration', 'prompt eval count', 'prompt eval duration', 'prompt eval rate', 'eval count', 'eval duration', 'eval rate',
  ])
  for (const name of ['prompt eval count', 'eval count']) assert.match(rows[name], /^[1-9]\d* token\(s\)$/)
  for (const name of ['total duration', 'load duration', 'eval duration']) assert.match(rows[name], /^[\d.]+(µs|ms|s)$/)
  for (const name of ['prompt eval rate', 'eval rate']) assert.match(rows[name], /^[\d.]+ tokens\/s$/)
})

test('run --format json prints an object', async () => {
  assert.match((await ok('run', 'demo', '--format', 'json', question)).stdout, /^\s*\{/)
})

test('run --think of a model that cannot is refused; with =false it answers', async () => {
  assert.equal((await ok('run', 'demo', '--think=false', '--hidethinking', question)).stdout, `${answer}\n\n`)
  await fails('400 Bad Request: "demo" does not support thinking', ['run', 'demo', '--think', question])
})

test('run of an embedding model prints its vector', async () => {
  assertUnitVector(JSON.parse((await ok('run', 'embed', 'a b c')).stdout), 64)
  assertUnitVector(JSON.parse((await ok('run', 'embed', '--dimensions', '16', 'a b c')).stdout), 16)
  assertUnitVector(JSON.parse((await ok('run', 'embed', '--truncate', 'true', { stdin: 'a b c '.repeat(100) })).stdout), 64)
})

test('run holds a conversation', async () => {
  // The command script of util-linux plays a terminal.
  const { code, stdout } = await run('script', ['-qec', `stty cols 200; exec ${ollama} run demo`, '/dev/null'], {
    home: daemon.home,
    env: { OLLAMA_HOST: daemon.url, OLLAMA_NOHISTORY: '1' },
    typing: [
      [/>>> /, '/set parameter num_predict 100\r'], [/Set parameter[^]*>>> /, '/show info\r'], [/Capabilities[^]*>>> /, `${question}\r`],
      [/together[^]*>>> /, '/save talk\r'], [/Created new model[^]*>>> /, '/bye\r'],
    ],
  })
  assert.equal(code, 0, stdout)
  assert.ok(plain(stdout).includes(answer), plain(stdout))
  assert.match((await ok('show', 'talk', '--modelfile')).stdout, /\nMESSAGE assistant cllm is /)
  await ok('rm', 'talk')
})

test('ps has what is loaded, for as long as was asked', async () => {
  await ok('run', 'tiny', '--keepalive', '10m', '')
  await ok('run', 'demo', '--keepalive', '-1s', question)
  const { stdout } = await ok('ps')
  assert.match(stdout, /^NAME +ID +SIZE +PROCESSOR +CONTEXT +UNTIL *\n/)
  const rows = new Map(table(stdout).map((row) => [row.NAME, row]))
  assert.match(rows.get('tiny:latest').UNTIL, /^(9|10) minutes from now$/)
  assert.equal(rows.get('demo:latest').UNTIL, 'Forever')
  for (const { NAME, ID, PROCESSOR, CONTEXT, SIZE } of rows.values()) {
    assert.deepEqual([ID, PROCESSOR], [manifest(NAME).id, '100% CPU'])
    if (NAME !== 'embed:latest') assert.equal(CONTEXT, '1024')
    assert.match(SIZE, /^[\d.]+ [KMG]B$/)
  }
  assert.deepEqual(table((await ok('ps', 'tiny')).stdout).map((row) => row.NAME), ['tiny:latest'])
})

test('stop unloads', async () => {
  await ok('stop', 'demo')
  assert.ok(!(await ok('ps')).stdout.includes('demo'))
  await fails(`couldn't find model "nope" to stop`, ['stop', 'nope'])
})

test('cp copies and rm deletes', async () => {
  assert.equal((await ok('cp', 'pirate', 'me/pirate:v1')).stdout, "copied 'pirate' to 'me/pirate:v1'\n")
  const ids = table((await ok('list')).stdout).filter((row) => row.NAME.includes('pirate')).map((row) => row.ID)
  assert.equal(ids.length, 2)
  assert.equal(ids[0], ids[1])
  assert.equal((await ok('rm', 'pirate', 'me/pirate:v1')).stdout, "deleted 'pirate'\ndeleted 'me/pirate:v1'\n")
  assert.ok(!(await ok('list')).stdout.includes('pirate'))
})

test('an interrupt ends the answer and frees its slot', async () => {
  await ok('create', 'endless', '-f', modelfile('FROM tiny\nPARAMETER num_predict -1\n'))
  const { stdout } = await daemon.ollama(['run', 'endless', 'go on'], { typing: [[/.{20}/s, INTERRUPT]] })
  assert.ok(stdout.length >= 20)
  await assertSlotsFree(daemon)
})

test('a missing model is an error with its name', async () => {
  for (const command of ['show', 'rm']) await fails("model 'nope' not found", [command, 'nope'])
  await fails('model "nope" not found', ['cp', 'nope', 'other'])
})

test('wrong names and files are errors', async () => {
  await fails('destination "a/b/c/d" is invalid', ['cp', 'tiny', 'a/b/c/d'])
  await fails('invalid model name: a/b/c/d', ['create', 'a/b/c/d', '-f', modelfile('FROM tiny\n')])
  await fails('no FROM line', ['create', 'x', '-f', modelfile('SYSTEM hi\n')])
  await fails('400 Bad Request: template error: template: :1: unclosed action', ['create', 'x', '-f', modelfile('FROM tiny\nTEMPLATE {{ .Prompt\n')])
})

test('a full queue is an error', async () => {
  const busy = await busyDaemon()
  const { code, stderr } = await busy.ollama(['run', 'tiny', 'hello'])
  assert.deepEqual([code, stderr.trim().split('\n').at(-1)], [1, `Error: 503 Service Unavailable: ${busyText}`])
  await busy.stop()
})

test('without a daemon each command says so', async () => {
  const gone = await serve()
  await gone.stop()
  for (const args of [['list'], ['ps'], ['show', 'x'], ['run', 'x', 'y'], ['stop', 'x'], ['rm', 'x'], ['cp', 'x', 'y'], ['create', 'x']]) {
    const { code, stderr } = await gone.ollama(args)
    assert.equal(code, 1, args[0])
    assert.match(stderr, /could not connect to ollama server, run 'ollama serve' to start it|connection refused/, args[0])
  }
  assert.match((await gone.ollama(['-v'])).stdout, /^Warning: could not connect to a running Ollama instance\n/)
})
