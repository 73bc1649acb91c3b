// What the client tests stand on: daemons and commands as processes of their own.
//
// Every daemon has a folder and a port of its own, on the loopback address. All that
// was started ends with the test file, whether it passes or not; nothing waits
// longer than its limit.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import http from 'node:http'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { after } from 'node:test'

function fromRunner(name) {
  const value = process.env[name]
  if (!value) throw new Error(`${name} is not set: start the tests with 'make compat' or scripts/compat/run.sh`)
  return value
}

const cllm = fromRunner('CLLM_COMPAT_CLLM')
const tinyModels = fromRunner('CLLM_COMPAT_MODELS')

/** The real ollama command. */
export const ollama = fromRunner('CLLM_COMPAT_OLLAMA')

/** What the demo model answers, word for word. */
export const expected = JSON.parse(readFileSync(new URL('expected.json', import.meta.url)))

/** The files that scripts/compat/tinymodels has written. */
export const gguf = {
  tiny: path.join(tinyModels, 'tiny.gguf'), // random answers that run on until their limit
  embed: path.join(tinyModels, 'embed.gguf'), // embeddings of 64 numbers
}

const startLimit = 30_000
const stopLimit = 15_000

const children = new Set()
const folders = new Set()
process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')))
after(async () => {
  await Promise.all([...children].map(end))
  await Promise.all([...folders].map((folder) => rm(folder, { recursive: true, force: true })))
})

/** An empty folder that is removed when the test file ends. */
export async function folder() {
  const made = await mkdtemp(path.join(tmpdir(), 'test-'))
  folders.add(made)
  return made
}

function start(command, args, options) {
  const child = spawn(command, args, options)
  children.add(child)
  child.gone = new Promise((resolve) => {
    const done = () => {
      children.delete(child)
      resolve()
    }
    child.once('close', done)
    child.once('error', done)
  })
  return child
}

// end asks a child to end and makes sure that it does.
async function end(child) {
  child.kill('SIGTERM')
  const killer = setTimeout(() => child.kill('SIGKILL'), stopLimit)
  await child.gone
  clearTimeout(killer)
}

// No variable of the user's reaches a daemon or a command, but for those that it
// needs to run at all.
function environment(home, more) {
  return { PATH: process.env.PATH, HOME: home, TMPDIR: tmpdir(), LC_ALL: 'C', TERM: 'dumb', ...more }
}

/**
 * Starts `cllm serve`, or the server of another command, and waits until it listens.
 * models: names of gguf files to create models of, under the same names.
 */
export async function serve({ command = cllm, home, env = {}, models = [] } = {}) {
  home ??= await folder()
  const store = path.join(home, 'models')
  const child = start(command, ['serve'], {
    env: environment(home, { OLLAMA_HOST: '127.0.0.1:0', OLLAMA_MODELS: store, OLLAMA_NO_CLOUD: '1', ...env }),
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let log = ''
  const address = await new Promise((resolve, reject) => {
    const fail = (why) => reject(new Error(`${command} serve ${why}; its log:\n${log}`))
    const limit = setTimeout(() => fail(`does not listen after ${startLimit / 1000} s`), startLimit)
    child.stderr.setEncoding('utf8').on('data', (text) => {
      log += text
      const found = log.match(/Listening on (127\.0\.0\.1:\d+)/)
      if (found) {
        clearTimeout(limit)
        resolve(found[1])
      }
    })
    child.gone.then(() => {
      clearTimeout(limit)
      fail('has ended')
    })
  })
  const daemon = {
    url: `http://${address}`,
    home,
    store,
    log: () => log,
    stop: () => end(child),
    /** Ends it at once, as a power failure would. */
    kill() {
      child.kill('SIGKILL')
      return child.gone
    },
    /** One request without any client library. A body is sent as it is, or as JSON. */
    request: (method, route, body, headers = {}) => request(address, method, route, body, headers),
    /** The sum of a metric over all models. */
    async metric(name) {
      const { text } = await daemon.request('GET', '/metrics')
      const lines = text.split('\n').filter((line) => line.startsWith(name + '{') || line.startsWith(name + ' '))
      return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
    },
    /** The real ollama command against this daemon. */
    ollama: (args, options = {}) =>
      run(ollama, args, { home, ...options, env: { OLLAMA_HOST: `http://${address}`, ...options.env } }),
  }
  // One thread is fastest for models of this size, and lets tests run beside other work.
  if (command === cllm && !env.CLLM_NODEMO) {
    const body = { model: 'demo', from: 'demo', parameters: { num_thread: 1 }, stream: false }
    const { status, text } = await daemon.request('POST', '/api/create', body)
    assert.equal(status, 200, text)
  }
  for (const name of models) await create(daemon, name, { parameters: { temperature: 0, num_thread: 1 } })
  return daemon
}

// Not fetch: it follows redirects, and has its own mind about headers.
function request(address, method, route, body, headers) {
  const [host, port] = address.split(':')
  const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
  if (text !== undefined) headers = { 'content-length': Buffer.byteLength(text), ...headers }
  return new Promise((resolve, reject) => {
    const sent = http.request({ host, port, method, path: route, headers, agent: false, signal: AbortSignal.timeout(60_000) }, (answer) => {
      let text = ''
      answer.setEncoding('utf8').on('data', (piece) => (text += piece))
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text }))
      answer.on('error', reject)
    })
    sent.on('error', reject)
    sent.end(text)
  })
}

/** Makes a model of a gguf file by the API alone, as libraries do that upload blobs. */
export async function create(daemon, name, { file = gguf[name], ...more } = {}) {
  const bytes = readFileSync(file)
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
  const uploaded = await fetch(`${daemon.url}/api/blobs/${digest}`, { method: 'POST', body: bytes })
  assert.ok(uploaded.ok, `upload of ${file}: ${uploaded.status} ${await uploaded.text()}`)
  const body = { model: name, files: { [path.basename(file)]: digest }, stream: false, ...more }
  const made = await daemon.request('POST', '/api/create', body)
  assert.deepEqual([made.status, made.text], [200, '{"status":"success"}'], `create ${name}`)
}

/** Starts the registry of scripts/compat/registry, whose main.go says what it has. */
export async function registry() {
  const child = start(fromRunner('CLLM_COMPAT_REGISTRY'), [gguf.tiny], { env: environment(tmpdir()), stdio: ['pipe', 'pipe', 'inherit'] })
  const address = await new Promise((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (text) => resolve(text.trim()))
    child.gone.then(() => reject(new Error('the registry has ended')))
  })
  return {
    /** The name to pull one of its models by. */
    name: (model) => `${address}/library/${model}`,
    /** A request of the tests' own. */
    async ask(what) {
      const { status, text } = await request(address, 'POST', `/test/${what}`)
      assert.equal(status, 200, text)
      return text
    },
  }
}

/**
 * Runs a command to its end. What is not read from stdin can be typed as a person
 * does: typing is a list of [pattern, keys]; when the output has the pattern, the keys
 * are sent, and the next pattern is looked for in what comes then. The keys INTERRUPT
 * are the signal.
 */
export async function run(command, args, { home, env = {}, stdin = '', typing = [], limit = 60_000 } = {}) {
  home ??= await folder()
  const child = start(command, args, { env: environment(home, env), cwd: home, stdio: 'pipe' })
  const limiter = setTimeout(() => child.kill('SIGKILL'), limit)
  const steps = [...typing]
  let [stdout, stderr, seen] = ['', '', 0]
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text
    while (steps.length && steps[0][0].test(stdout.slice(seen))) {
      seen = stdout.length
      const [, keys] = steps.shift()
      if (keys === INTERRUPT) child.kill('SIGINT')
      else child.stdin.write(keys)
    }
  })
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text))
  child.stdin.on('error', () => {}) // a command may end without reading it
  if (!steps.some(([, keys]) => keys !== INTERRUPT)) child.stdin.end(stdin)
  await child.gone
  clearTimeout(limiter)
  if (child.signalCode === 'SIGKILL') {
    throw new Error(`${command} ${args.join(' ')} did not end within ${limit / 1000} s\n${stdout}${stderr}`)
  }
  return { code: child.exitCode, signal: child.signalCode, stdout, stderr: plain(stderr) }
}

/** In run's typing: Ctrl-C. */
export const INTERRUPT = Symbol('interrupt')

/** Text as it stands on a terminal in the end, without escape sequences and what they erase. */
export function plain(text) {
  return text
    .split('\n')
    .map((line) => line.split(/\x1b\[(?:2K\x1b\[1G|1G)/).at(-1))
    .join('\n')
    .replaceAll(/\x1b\[[?0-9;]*[A-Za-z]/g, '')
}

/** Waits until a condition holds; the message says what was waited for. */
export async function until(message, condition, limit = 15_000) {
  const end = Date.now() + limit
  while (!(await condition())) {
    if (Date.now() > end) assert.fail(`not within ${limit / 1000} s: ${message}`)
    await sleep(20)
  }
}

/**
 * A daemon with one slot and one place to wait, both taken: whatever is asked next
 * is refused.
 */
export async function busyDaemon() {
  const daemon = await serve({ env: { OLLAMA_NUM_PARALLEL: '1', OLLAMA_MAX_QUEUE: '1' }, models: ['tiny'] })
  const leave = new AbortController()
  const hold = async () => {
    const body = { model: 'tiny', prompt: 'never stop', options: { num_predict: -1 } }
    const answer = await fetch(`${daemon.url}/api/generate`, { method: 'POST', body: JSON.stringify(body), signal: leave.signal })
    for await (const _ of answer.body);
  }
  const holders = [hold().catch(() => {})]
  await until('the first request has the slot', async () => (await daemon.metric('cllm_slots_active')) === 1)
  holders.push(hold().catch(() => {}))
  await until('the second request waits', async () => (await daemon.metric('cllm_requests_waiting')) === 1)
  const stop = daemon.stop
  daemon.stop = async () => {
    leave.abort()
    await Promise.all(holders)
    await stop()
  }
  return daemon
}

/** Asserts that no request is decoded any more: the client that left has freed its slot. */
export function assertSlotsFree(daemon) {
  return until('every slot is free', async () => (await daemon.metric('cllm_slots_active')) === 0)
}

/** The text that a full queue answers with, in every API. */
export const busyText = 'server busy, please try again.  maximum pending requests exceeded'

/** A function that the demo model has learnt to call, in JSON schema. */
export const weather = {
  name: 'get_weather',
  description: 'Get the weather of a city',
  parameters: {
    type: 'object',
    required: ['city'],
    properties: { city: { type: 'string', description: 'The city' } },
  },
}

/** A schema that every answer fits in a few tokens, so that no answer is cut. */
export const shortSchema = {
  type: 'object',
  properties: { open: { type: 'boolean' }, color: { type: 'string', enum: ['red', 'green'] } },
  required: ['open', 'color'],
}

/** Asserts that a text is JSON of shortSchema. */
export function assertFitsSchema(text) {
  const value = JSON.parse(text)
  assert.deepEqual(Object.keys(value).sort(), ['color', 'open'])
  assert.equal(typeof value.open, 'boolean')
  assert.match(value.color, /^(red|green)$/)
}

/** Asserts that a vector has this many numbers and the length 1. */
export function assertUnitVector(vector, size) {
  assert.equal(vector.length, size)
  const norm = Math.hypot(...vector)
  assert.ok(Math.abs(norm - 1) < 1e-4, `its length is ${norm}`)
}

/** Asserts that an error is thrown, and returns it. */
export async function thrownBy(promise) {
  try {
    await promise
  } catch (error) {
    return error
  }
  return assert.fail('nothing was thrown')
}
