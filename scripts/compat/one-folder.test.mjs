// One model folder, which Ollama's own server and cllm use in turn.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { folder, gguf, ollama, serve } from './harness.mjs'

const programs = {
  cllm: { env: { CLLM_NODEMO: '1' } },
  ollama: { command: ollama, env: { GIN_MODE: 'release' } },
}

const modelfile = `FROM ${gguf.tiny}
SYSTEM You are small.
PARAMETER temperature 0
PARAMETER num_predict 8
TEMPLATE """{{ .System }} {{ .Prompt }}"""
MESSAGE user Hello
LICENSE MIT
`

/** Runs a command, which has to succeed, and returns what it prints. */
async function must(daemon, ...args) {
  const { code, stdout, stderr } = await daemon.ollama(args)
  assert.equal(code, 0, `ollama ${args.join(' ')}: ${stdout}${stderr}`)
  return stdout
}

/** What the daemon says of its models, but for times. */
async function described(daemon) {
  const list = JSON.parse((await daemon.request('GET', '/api/tags')).text).models
  const models = {}
  for (const { name, digest, size } of list) {
    const shown = JSON.parse((await daemon.request('POST', '/api/show', { model: name })).text)
    // Parameters come from Ollama in the order of a Go map.
    const parameters = shown.parameters?.split('\n').sort()
    models[name] = { digest, size, parameters, system: shown.system, template: shown.template, license: shown.license, messages: shown.messages, family: shown.details.family }
  }
  return models
}

async function answer(daemon, model) {
  const { status, text } = await daemon.request('POST', '/api/generate', { model, prompt: 'hi', stream: false })
  assert.equal(status, 200, text)
  return JSON.parse(text).response
}

for (const [first, second] of [['ollama', 'cllm'], ['cllm', 'ollama']]) {
  test(`a folder that ${first} wrote is read, used and changed by ${second}, and then works with ${first}`, async () => {
    const home = await folder()
    writeFileSync(path.join(home, 'Modelfile'), modelfile)

    let daemon = await serve({ ...programs[first], home })
    await must(daemon, 'create', 'made', '-f', path.join(home, 'Modelfile'))
    await must(daemon, 'cp', 'made', 'me/copied:v1')
    await must(daemon, 'cp', 'made', 'doomed')
    const before = await described(daemon)
    assert.deepEqual(Object.keys(before).sort(), ['doomed:latest', 'made:latest', 'me/copied:v1'])
    await daemon.stop()

    daemon = await serve({ ...programs[second], home })
    assert.deepEqual(await described(daemon), before, `${second} reads what ${first} wrote`)
    let said
    if (second === 'cllm') said = await answer(daemon, 'me/copied:v1')
    writeFileSync(path.join(home, 'Modelfile.more'), 'FROM made\nSYSTEM You are another.\n')
    await must(daemon, 'create', 'derived', '-f', path.join(home, 'Modelfile.more'))
    await must(daemon, 'cp', 'derived', 'MADE:two')
    await must(daemon, 'rm', 'doomed')
    const between = await described(daemon)
    assert.equal(between['derived:latest'].system, 'You are another.')
    assert.ok(!('doomed:latest' in between))
    await daemon.stop()

    daemon = await serve({ ...programs[first], home })
    assert.deepEqual(await described(daemon), between, `${first} reads what ${second} changed`)
    if (first === 'cllm') said = await answer(daemon, 'me/copied:v1')
    assert.ok(said, 'the random model says something')
    await must(daemon, 'cp', 'derived', 'again')
    await must(daemon, 'create', 'derived', '-f', path.join(home, 'Modelfile'))
    for (const name of Object.keys(await described(daemon))) await must(daemon, 'rm', name)
    assert.deepEqual(await described(daemon), {})
    await daemon.stop()
    assert.deepEqual(readdirSync(path.join(home, 'models', 'blobs')), [], 'nothing is left')
  })
}

/** A model's manifest, with its config in the place of that one's digest. */
function written(daemon, name) {
  const { config, ...rest } = JSON.parse(readFileSync(path.join(daemon.store, 'manifests/registry.ollama.ai/library', name, 'latest')))
  const blob = (digest) => readFileSync(path.join(daemon.store, 'blobs', digest.replace(':', '-')), 'utf8')
  for (const layer of rest.layers) {
    // The folder is another one, so that the path of the weights is, too.
    if (layer.from?.startsWith(daemon.store)) layer.from = layer.from.slice(daemon.store.length)
  }
  return { ...rest, config: { ...config, digest: undefined, size: undefined, content: JSON.parse(blob(config.digest)) } }
}

test('cllm writes the manifests and configs that Ollama writes', async () => {
  const files = {
    made: modelfile,
    derived: 'FROM made\nSYSTEM You are another.\nPARAMETER stop a\nPARAMETER stop b\nPARAMETER temperature 0.5\nLICENSE Apache\n',
    bare: `FROM ${gguf.embed}\n`,
    talk: 'FROM derived\nMESSAGE user Hi\nMESSAGE assistant Hello\nTEMPLATE """{{ .Prompt }}"""\n',
    parsed: 'FROM made\nRENDERER qwen3-coder\nPARSER qwen3-coder\nREQUIRES 0.14.0\n',
    again: 'FROM parsed\n',
  }
  const found = {}
  for (const program of ['ollama', 'cllm']) {
    const home = await folder()
    const daemon = await serve({ ...programs[program], home })
    found[program] = {}
    for (const [name, text] of Object.entries(files)) {
      const file = path.join(home, `Modelfile.${name}`)
      writeFileSync(file, text)
      await must(daemon, 'create', name, '-f', file)
      found[program][name] = written(daemon, name)
    }
    await daemon.stop()
  }
  // Ollama takes the number of F32, which is 0, for none; docs/api.md lists that.
  for (const { config } of Object.values(found.ollama)) {
    if (config.content.file_type === 'unknown') config.content.file_type = 'F32'
  }
  assert.deepEqual(found.cllm, found.ollama)
})
