import { BlockList, isIP } from 'node:net'

/** IPv4 addresses that are not of the public internet (IANA special-purpose registry, RFC 6890 and later), and those of cloud services' own. */
const notPublic4 = blockList('ipv4', [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  // link-local; the metadata service of most clouds
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/3',
  // Azure's own services, inside every virtual machine
  '168.63.129.16/32',
])

/** Of IPv6, only global unicast is public at all; in it, these are not, or lead to an IPv4 address. */
const global6 = blockList('ipv6', ['2000::/3'])
const notPublic6 = blockList('ipv6', ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20'])

function blockList(family: 'ipv4' | 'ipv6', ranges: readonly string[]): BlockList {
  const list = new BlockList()
  for (const range of ranges) {
    const [address = '', length] = range.split('/')
    list.addSubnet(address, Number(length), family)
  }
  return list
}

/**
 * Whether an IP address belongs to the public internet: not this machine, its network, a cloud's metadata service, or a range for
 * special purposes. IPv4 addresses written as IPv6 ones are not, nor is anything that is no address.
 */
export function isPublicAddress(address: string): boolean {
  const version = isIP(address)
  if (version === 4) return !notPublic4.check(address, 'ipv4')
  // an address with a zone is of a local network
  if (version !== 6 || address.includes('%')) return false
  return global6.check(address, 'ipv6') && !notPublic6.check(address, 'ipv6')
}
