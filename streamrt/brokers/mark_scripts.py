"""What the server does in one step with marks, in Lua: so that a mark, its position and its announcement are one.

The marks of a channel are a hash for each process that has any there, a set of these processes, and a hash that says
where they are, by the rules of `scripts`. So what one process has marked is cleared without a look at anybody else's.

Processes are in one place for the whole server: a sorted set of those that live, with the time when their leases end by
the server's clock; one of those that have ended and whose marks are to be cleared, with the time from which on somebody
may do that; and for each a set of the channels where it may have marks. The rules of this file:

- a process is known for dead when another has seen its lease ended, and not before: who is late, and was not missed, is
  alive. Who was missed has to take another name, for its marks are being cleared;
- when all are late it is the server that was away, and all have another lease;
- a removal comes first, and has no effect unless the rest has: after one, a full server lets a script finish. So on a
  full server leases are renewed and marks are cleared, and only new ones are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_OPEN: Final = """
local marks, theirs, at = KEYS[1], KEYS[2], KEYS[3]
local server, new_epoch, linger = ARGV[1], ARGV[2], ARGV[3]
local channel, head, process = ARGV[4], ARGV[5], ARGV[6]
local function text(number) return string.format('%.0f', number) end
local kept = redis.call('HMGET', at, 'epoch', 'server', 'offset')
local epoch, offset, is_new = kept[1], tonumber(kept[3]), kept[2] ~= server
if not epoch then
  epoch, offset = new_epoch, 0
elseif is_new then
  epoch = new_epoch
end
local first, records = offset + 1, {}

local function note(name, value)
  offset = offset + 1
  local sizes = struct.pack('>I4I4', #name, value and #value + 1 or 0)
  records[#records + 1] = sizes .. name .. (value or '')
end

local function close()
  if is_new or #records > 0 then
    redis.call('HSET', at, 'epoch', epoch, 'server', server, 'offset', text(offset))
  end
  if redis.call('EXISTS', marks) == 1 then redis.call('PERSIST', at) else redis.call('PEXPIRE', at, linger) end
  if #records > 0 then
    local line = head .. ' ' .. epoch .. '.' .. text(first) .. ' ' .. process .. ' ' .. text(#records) .. '\\n'
    redis.call('PUBLISH', channel, line .. table.concat(records))
  end
end
"""

MARK: Final = (
    _OPEN
    + """
for i = 7, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  local before = redis.call('HGET', theirs, name)
  if value == '-' then
    if before then
      redis.call('HDEL', theirs, name)
      note(name)
    end
  elseif before ~= string.sub(value, 2) then
    value = string.sub(value, 2)
    redis.call('HSET', theirs, name, value)
    note(name, value)
  end
end
if #records > 0 then
  redis.call(redis.call('EXISTS', theirs) == 1 and 'SADD' or 'SREM', marks, process)
  close()
end
"""
)
"""Set and clear marks of one process, and announce what is not as it was.

Keys: set, hash of the process, hash of the position. Arguments: server, new epoch, linger in ms, channel, what an
announcement begins with, process; then each name, and "-" or "+" and the value.
"""

CLEAR: Final = (
    _OPEN
    + """
local names = redis.call('HKEYS', theirs)
redis.call('DEL', theirs)
redis.call('SREM', marks, process)
for _, name in ipairs(names) do note(name) end
if #names > 0 then close() end
"""
)
"""Clear all marks of a process, and announce that. Keys and arguments are those of `MARK`."""

MARKS: Final = (
    _OPEN
    + """
if ARGV[7] == '1' then close() end
local all = {}
for _, one in ipairs(redis.call('SMEMBERS', marks)) do
  all[#all + 1] = one
  all[#all + 1] = redis.call('HGETALL', marks .. ':' .. one)
end
return {epoch, text(offset), all}
"""
)
"""Return all marks: epoch, offset, and each process and what it has.

Keys and arguments are those of `MARK`; then whether the position is to be kept, for somebody who goes on from it.
"""

LEASE: Final = """
local processes, ended = KEYS[1], KEYS[2]
local me, is_new, lasts, claim = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local function text(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = redis.call('ZREVRANGE', processes, 0, 0, 'WITHSCORES')[2]
local is_known = redis.call('ZREM', processes, me) == 1
local lives = is_known or is_new
if lives then redis.call('ZADD', processes, text(now + lasts), me) end
local all_are_late = is_known and tonumber(last) <= now
for _, one in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', text(now))) do
  if all_are_late then
    redis.call('ZADD', processes, text(now + lasts), one)
  else
    redis.call('ZREM', processes, one)
    redis.call('ZADD', ended, text(now), one)
  end
end
for i = 5, #ARGV do redis.call('ZADD', ended, text(now), ARGV[i]) end
local gone = redis.call('ZRANGEBYSCORE', ended, '-inf', text(now))
for _, one in ipairs(gone) do redis.call('ZADD', ended, text(now + claim), one) end
return {lives and 1 or 0, gone}
"""
"""Renew a lease; return whether the process lives, and which have ended and are to be cleared by it.

Keys: processes that live, and those that have ended. Arguments: process; whether it is a new one; ms that its lease
lasts, and that it has for clearing; names that it has had before.
"""

SWEEP: Final = """
local ended, channels = KEYS[1], KEYS[2]
local process, claim = ARGV[1], tonumber(ARGV[2])
for i = 3, #ARGV do redis.call('SREM', channels, ARGV[i]) end
redis.call('ZREM', ended, process)
local some = redis.call('SRANDMEMBER', channels, 64)
if #some > 0 then
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  redis.call('ZADD', ended, string.format('%.0f', now + claim), process)
end
return some
"""
"""Return some of the channels where a process that has ended may have marks; after the last it is forgotten.

Keys: processes that have ended, channels of this one. Arguments: process, ms for the next of them; channels that are
cleared.
"""

MARK_SCRIPTS: Final[Sequence[str]] = (MARK, CLEAR, MARKS, LEASE, SWEEP)
