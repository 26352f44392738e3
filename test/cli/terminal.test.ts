import { describe, expect, test } from 'vitest'
import { printable, statusLine, textStyle, wrap } from '../../src/cli/terminal.ts'

function fakeStream(isTTY: boolean, columns = 20) {
  const written: string[] = []
  return { isTTY, columns, written, write: (text: string) => written.push(text) }
}

describe('the style of a stream', () => {
  test.each([
    ['a terminal', true, {}, true],
    ['a pipe', false, {}, false],
    ['a terminal with NO_COLOR', true, { NO_COLOR: '1' }, false],
    ['a terminal with an empty NO_COLOR', true, { NO_COLOR: '' }, true],
    ['a dumb terminal', true, { TERM: 'dumb' }, false],
    ['a pipe with FORCE_COLOR', false, { FORCE_COLOR: '1' }, true],
    ['a pipe with FORCE_COLOR=0', false, { FORCE_COLOR: '0' }, false],
    ['NO_COLOR against FORCE_COLOR', true, { NO_COLOR: '1', FORCE_COLOR: '1' }, false],
  ])('colours for %s', (_, isTTY, environment, expected) => {
    const style = textStyle(fakeStream(isTTY), environment)
    expect(style.colours).toBe(expected)
    expect(style.paint('red', 'x')).toBe(expected ? '\u001b[31mx\u001b[39m' : 'x')
  })

  test("width is the terminal's, or 80", () => {
    expect(textStyle(fakeStream(true, 120), {}).width).toBe(120)
    expect(textStyle(fakeStream(true, 0), {}).width).toBe(80)
    expect(textStyle(fakeStream(false, 120), {}).width).toBe(80)
    expect(textStyle({ write: () => undefined }, {}).width).toBe(80)
  })
})

describe('the status line', () => {
  test('replaces itself, is cut to the width, and is cleared once', () => {
    const stream = fakeStream(true, 10)
    const line = statusLine(stream)
    line.clear()
    line.show('step 1')
    line.show('a line that is too long')
    line.clear()
    line.clear()
    expect(stream.written).toEqual(['\r\u001b[2Kstep 1', '\r\u001b[2Ka line th', '\r\u001b[2K'])
  })

  test('shows nothing in a pipe', () => {
    const stream = fakeStream(false)
    const line = statusLine(stream)
    line.show('step 1')
    line.clear()
    expect(stream.written).toEqual([])
  })
})

test('control characters become visible, line ends and tabs stay', () => {
  expect(printable('a\u001b[2Jb\u0007\u009b\r\n\tü🚀')).toBe('a\\x1b[2Jb\\x07\\x9b\\x0d\n\tü🚀')
})

test('text is wrapped at spaces, long words unbroken', () => {
  expect(wrap('one two three four', 9)).toEqual(['one two', 'three', 'four'])
  expect(wrap('extraordinary day', 5)).toEqual(['extraordinary', 'day'])
  expect(wrap('', 5)).toEqual([''])
})
