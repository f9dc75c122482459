"""What the server does in one step, in Lua: so that a message, its position and its publication are one.

A history is a stream, and a hash beside it with the epoch, the last offset and the bytes that are kept. The entries
have the ids ``offset-milliseconds``: so they are found by their offset, and tell their age. The rules of this file:

- the hash says where the history is. Without it (it was forgotten, evicted or flushed) the history begins anew, with
  another epoch, and a stream that is left is none of it;
- the epoch belongs to one run of one server. After a restart, or on a replica that has taken over, the last messages
  may be missing, and their offsets would be given to others: so the epoch is another one then, and what is kept stays;
- the hash outlives the stream by `LINGER`, so that a quiet topic still has a position for who comes back;
- all keys of a channel are in one slot of a cluster.
"""

from __future__ import annotations

from typing import Final

LINGER: Final = 600.0
"""Seconds that a position is good for after the last message of its history is too old to be kept."""

_OPEN: Final = """
local at, log = KEYS[1], KEYS[2]
local server, new_epoch, age, linger = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local function text(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local kept = redis.call('HMGET', at, 'epoch', 'server', 'offset', 'bytes')
local epoch, offset, bytes = kept[1], tonumber(kept[3]), tonumber(kept[4])
if not epoch then
  if redis.call('EXISTS', log) == 1 then redis.call('DEL', log) end -- or a full server would let the rest through
  epoch, offset, bytes = new_epoch, 0, 0
  redis.call('HSET', at, 'epoch', epoch, 'server', server, 'offset', '0', 'bytes', '0')
elseif kept[2] ~= server then
  epoch = new_epoch
  redis.call('HSET', at, 'epoch', epoch, 'server', server)
end
local length = redis.call('XLEN', log)
if length == 0 then bytes = 0 end

local function forget(messages, limit)
  local many, from, last = math.max(1, math.min(100, length - messages + 1)), '-', nil
  while many > 0 and length > 0 do
    local oldest = redis.call('XRANGE', log, from, '+', 'COUNT', many)
    many = math.min(100, 2 * many)
    for _, entry in ipairs(oldest) do
      local place, time = string.match(entry[1], '^(%d+)-(%d+)$')
      if not (length > messages or (bytes > limit and length > 1) or tonumber(time) <= now - age) then
        many = 0
        break
      end
      length, bytes = length - 1, bytes - tonumber(string.match(entry[2][1], '%d+$'))
      from, last = '(' .. entry[1], tonumber(place)
    end
  end
  if last then redis.call('XTRIM', log, 'MINID', text(last + 1)) end
end

local function close()
  if text(offset) ~= kept[3] or text(bytes) ~= kept[4] then
    redis.call('HSET', at, 'offset', text(offset), 'bytes', text(bytes))
  end
  redis.call('PEXPIRE', log, text(age + 1000))
  redis.call('PEXPIRE', at, text(age + linger))
end
"""

PUBLISH: Final = (
    _OPEN
    + """
local first, records = offset + 1, {}
for i = 8, #ARGV, 2 do
  offset, length = offset + 1, length + 1
  bytes = bytes + tonumber(string.match(ARGV[i], '%d+$'))
  redis.call('XADD', log, text(offset) .. '-' .. text(now), ARGV[i], ARGV[i + 1])
  records[#records + 1] = ARGV[i + 1]
end
if length > tonumber(ARGV[5]) or bytes > tonumber(ARGV[6]) then forget(tonumber(ARGV[5]), tonumber(ARGV[6])) end
close()
local line = string.match(ARGV[8], '^%d+') .. ' ' .. epoch .. '.' .. text(first) .. ' ' .. text(#records) .. '\\n'
redis.call('PUBLISH', ARGV[7], line .. table.concat(records))
return #records
"""
)
"""Keep messages, and publish them.

Keys: hash, stream. Arguments: server, new epoch, age and linger in ms, messages, bytes, channel; field and record of
each.
"""

REPLAY: Final = (
    _OPEN
    + """
forget(math.huge, math.huge)
close()
local oldest, since = offset - length, nil
if ARGV[5] == 'oldest' then since = oldest
elseif ARGV[5] == 'after' and ARGV[6] == epoch then since = tonumber(ARGV[7]) end
if not since or since < oldest or since > offset then return {epoch, text(offset), 0, {}} end
return {epoch, text(offset), 1, redis.call('XRANGE', log, text(since + 1), '+')}
"""
)
"""Return what a history has after a position: epoch, offset, whether that is everything, and the entries.

Keys: hash, stream. Arguments: server, new epoch, age and linger in ms; "oldest", "after" or nothing; epoch, offset.
"""
