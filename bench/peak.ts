import { readFileSync } from 'node:fs'

/** The most memory that this process ever held. */
export function peakMiB(): number {
  return peakKiB() / 1024
}

/** Where there is /proc it tells this program's peak; the usage that other systems report may be the parent's before it began. */
function peakKiB(): number {
  try {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))
    if (peak) return Number(peak[1])
  } catch {
    // no /proc here
  }
  return process.resourceUsage().maxRSS
}
