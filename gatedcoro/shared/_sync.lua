-- What the server knows of one name, and the one script that changes it. Run for each request of a session (_redis.py).
--
-- A session is a process's share: `granted` permits it has been given so far, `returned` it has given back so far. Both only grow, the
-- server alone makes grants, and where two sides differ the higher count is right. So a request that comes twice, late or out of order
-- changes nothing, and neither a lost answer nor a cancelled call can lose or double a permit. A session holds granted - returned.
--
--   sessions  sorted set: session -> when its lease ends (this server's milliseconds)
--   counts    hash: session -> granted, returned, asked, limit, number, arrival, fence (record_of)
--   queue     sorted set: what waits: arrival and session -> how many it holds. The first is served first: who holds least, then
--             who has waited longest
--   meta      hash: epoch     when this state was made (microseconds); another one has forgotten what this one knows
--                   requests  how many there have been
--                   total     how many permits all sessions hold
--                   arrivals  how many have come to the queue
--                   fence     the latest fencing token
--                   grace     until when (milliseconds) nothing new is granted, as there may be sessions to claim what they hold;
--                             all that is kept when the last session leaves in that time
--                   bound     no session that waits has a higher limit
--
-- ARGV: session, lease (ms; 0: the session leaves), limit, number of the request, granted (as known to the session), returned, asked (how
-- many it wants to have been granted, in all), epoch (as known to the session; 0: it is new; -1: it knows none, and leaves), fence (as known
-- to the session), recover (1 or 0), requests (the most that the session knows of), channels.
-- Answer: 1 (0: the lease has ended, nothing is held), epoch, granted, returned, fence, how many other sessions wait, the least that one
-- of these holds, total, sessions, requests, milliseconds until another session's lease or the grace ends (-1: neither). Messages have the
-- same but for the first and the last: answers and messages come by different connections, and `requests` tells which is the later.

local sessions, counts, queue, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local sid, channels = ARGV[1], ARGV[12]
local lease, limit, number = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local granted, returned, asked = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local known_epoch, known_fence, recover = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10] == '1'
local known_requests = tonumber(ARGV[11])

local PRUNED_AT_ONCE = 100 -- others are pruned by the next request

local time = redis.call('TIME')
local microseconds = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(microseconds / 1000)

-- Numbers are written out: Lua would make 1.7e+15 of them.
local function written(...)
  local words = {}
  for _, value in ipairs({...}) do
    words[#words + 1] = string.format('%.0f', value)
  end
  return table.concat(words, ' ')
end

---- The state as a whole ----

local state = {}
local FIELDS = {'epoch', 'requests', 'total', 'arrivals', 'fence', 'grace', 'bound'}

-- Milliseconds since the server's start, or up to a second less; 0 if it does not say. It counts the seconds of the clock: 1 may be the
-- tenth of one.
local function age()
  local info = redis.pcall('INFO', 'server')
  local seconds = type(info) == 'string' and info:match('uptime_in_seconds:(%d+)')
  return math.max(0, (tonumber(seconds) or 0) - 1) * 1000
end

-- *lost*: there was a state, and there are sessions that will claim what it counted.
local function begin_anew(lost)
  local epoch, grace = unpack(redis.call('HMGET', meta, 'epoch', 'grace'))
  redis.call('DEL', sessions, counts, queue, meta)
  state = {epoch = microseconds, requests = 0, total = 0, arrivals = 0, fence = 0, grace = 0, bound = 0}
  if grace and not epoch and known_epoch == 0 then
    state.grace = tonumber(grace) -- goes on
  elseif lost then
    state.grace = now + lease
  elseif recover then
    -- A server that has been up for less than a lease may have forgotten sessions that are alive.
    state.grace = math.max(0, now + lease - age())
  end
end

-- Whether there is a state, and whether there are remains of one: all three keys are there or none, or one was evicted or deleted.
local function read_state()
  local present = redis.call('EXISTS', sessions) + redis.call('EXISTS', counts) + redis.call('EXISTS', meta)
  local complete = present == 3
  if complete then
    for i, value in ipairs(redis.call('HMGET', meta, unpack(FIELDS))) do
      state[FIELDS[i]] = tonumber(value or nil)
      complete = complete and state[FIELDS[i]] ~= nil
    end
  end
  return complete, present > 0
end

local function write_state()
  local values = {}
  for _, field in ipairs(FIELDS) do
    values[#values + 1] = field
    values[#values + 1] = written(state[field])
  end
  redis.call('HSET', meta, unpack(values))
  -- When no session is left alive, nothing here means anything any more but the time for claims.
  local last = redis.call('ZRANGE', sessions, -1, -1, 'WITHSCORES')
  local ends = written(math.max(last[2] + lease, state.grace))
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIREAT', key, ends) -- all at the same moment
  end
end

---- One session's record ----

local function record_of(id)
  local text = redis.call('HGET', counts, id)
  if not text then
    return nil
  end
  local record, names, i = {}, {'granted', 'returned', 'asked', 'limit', 'number', 'arrival', 'fence'}, 0
  for value in text:gmatch('%d+') do
    i = i + 1
    record[names[i]] = tonumber(value)
  end
  return record
end

local function place_of(id, record)
  return string.format('%016.0f:%s', record.arrival, id)
end

local function held(record)
  return record.granted - record.returned
end

local function waits(record)
  return record.asked > record.granted
end

-- Writes a record, and where it stands in the queue. *behind*: behind those who hold as much.
local function write_record(id, record, behind)
  if record.arrival > 0 and (behind or not waits(record)) then
    redis.call('ZREM', queue, place_of(id, record))
    record.arrival = 0
  end
  if waits(record) then
    if record.arrival == 0 then
      state.arrivals = state.arrivals + 1
      record.arrival = state.arrivals
    end
    redis.call('ZADD', queue, held(record), place_of(id, record))
    state.bound = math.max(state.bound, record.limit)
  end
  local text = written(
    record.granted, record.returned, record.asked, record.limit, record.number, record.arrival, record.fence)
  redis.call('HSET', counts, id, text)
end

local function remove(id)
  local record = record_of(id)
  if record then
    state.total = state.total - held(record)
    redis.call('ZREM', queue, place_of(id, record))
    redis.call('HDEL', counts, id)
  end
  redis.call('ZREM', sessions, id)
end

---- What a request does ----

local function prune()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', sessions, '-inf', now, 'LIMIT', 0, PRUNED_AT_ONCE)) do
    if id ~= sid then
      remove(id)
    end
  end
end

-- Grants what is free to who holds least, then to who has waited longest; returns the sessions that gained.
local function grant()
  local gained, place, highest = {}, 0, 0
  while state.total < state.bound do
    local first = redis.call('ZRANGE', queue, place, place + 1, 'WITHSCORES')
    if #first == 0 then
      state.bound = highest
      break
    end
    local id = first[1]:sub(18)
    local record = record_of(id)
    if not record then -- a queue without its counts: the session comes again
      redis.call('ZREM', queue, first[1])
    else
      local free = record.limit - state.total
      highest = math.max(highest, record.limit)
      if free <= 0 then
        place = place + 1 -- its own limit is reached; another's may be higher
      else
        -- As many as make it equal to the next, and an equal part of what is left: as fair as one at a time, in fewer steps.
        local more = free
        if first[3] then
          local behind = math.max(0, tonumber(first[4]) - held(record))
          local equal = math.floor((free - behind) / (redis.call('ZCARD', queue) - place))
          more = math.max(1, behind + math.max(0, equal))
        end
        more = math.min(more, free, record.asked - record.granted)
        state.fence = math.max(state.fence + 1, microseconds)
        state.total = state.total + more
        record.granted = record.granted + more
        record.fence = state.fence
        gained[id] = true
        write_record(id, record, true)
      end
    end
  end
  return gained
end

-- The first of a sorted set but *member*: it, and its score.
local function first_but(member, key)
  local entries = redis.call('ZRANGE', key, 0, 1, 'WITHSCORES')
  for i = 1, #entries, 2 do
    if entries[i] ~= member then
      return entries[i], tonumber(entries[i + 1])
    end
  end
end

-- How many sessions but *id* wait, and the least that one of these holds.
local function others(id, record)
  local place = waits(record) and place_of(id, record) or nil
  local _, least = first_but(place, queue)
  return redis.call('ZCARD', queue) - (place and 1 or 0), least or 0
end

local function publish(channel, record, waiting, least)
  local counters = record and written(record.granted, record.fence) or '0 0'
  local standing = written(waiting, least, state.total, redis.call('ZCARD', sessions), state.requests)
  redis.call('PUBLISH', channels .. channel, table.concat({sid, written(state.epoch), counters, standing}, ' '))
end

---- The request ----

local complete, remains = read_state()
local own = complete and record_of(sid) or nil
if complete and known_epoch == state.epoch and (known_requests > state.requests or own and granted > own.granted) then
  -- It has gone back: a snapshot, or a replica that lacked the latest. From now on it is another state, with time for claims: a lease
  -- from now on, or once one comes that does not leave.
  state.epoch = microseconds
  state.grace = math.max(state.grace, now + lease)
end
-- A session that had a record in this state has lost its lease, or has left. After the loss of a state, who neither holds nor wants
-- anything starts anew when it does; and who only renews (number 0) claims nothing.
local is_lost = not own and known_epoch ~= 0
  and (complete and known_epoch == state.epoch or number == 0 or (granted == returned and asked <= granted))
if not complete then
  if lease == 0 or is_lost then
    -- What remains stays: it shows that there are sessions that will claim what they hold.
    return {is_lost and 0 or 1, known_epoch, granted, granted, 0, 0, 0, 0, 0, 0, -1}
  end
  -- A session that has an epoch has seen a state before this one.
  begin_anew(remains or known_epoch ~= 0)
end
local _, least_before = first_but(nil, queue)
prune()

state.requests = state.requests + 1
local limit_falls = false
if lease == 0 then
  remove(sid)
elseif not is_lost then
  own = own or {granted = 0, returned = 0, asked = 0, limit = limit, number = 0, arrival = 0, fence = 0}
  if known_epoch > 0 and known_epoch ~= state.epoch then
    -- It outlived another state. Others that did renew their leases within a lease, and claim what they hold as well.
    state.grace = math.max(state.grace, math.floor(state.epoch / 1000) + lease)
  end
  local held_before, returned_before = held(own), own.returned
  own.granted = math.max(own.granted, granted)
  own.returned = math.max(own.returned, returned)
  -- What it holds and the state has forgotten: a claim, for as much as there is room.
  local claimed = held(own) - held_before
  local room = math.max(0, limit - state.total)
  if claimed > room then
    own.returned = own.returned + claimed - room
  end
  state.total = state.total + held(own) - held_before
  own.fence = math.max(own.fence, known_fence)
  state.fence = math.max(state.fence, own.fence)
  if number > own.number then
    limit_falls = limit < own.limit
    own.number, own.asked, own.limit = number, asked, limit
  end
  write_record(sid, own, own.returned > returned_before)
  redis.call('ZADD', sessions, now + lease, sid)
end

local gained = {}
if now >= state.grace then
  gained = grant()
end

local alive = redis.call('ZCARD', sessions)
if alive == 0 then
  redis.call('DEL', sessions, counts, queue, meta)
  if now < state.grace then
    redis.call('HSET', meta, 'grace', written(state.grace))
    redis.call('PEXPIREAT', meta, written(state.grace))
  end
else
  write_state()
end

for id in pairs(gained) do
  if id ~= sid then
    local record = record_of(id)
    publish(id, record, others(id, record))
  end
end
-- Who holds permits has to know when somebody comes to wait who holds less than all that did, or when a limit has fallen.
local _, least = first_but(nil, queue)
if (least and (not least_before or least < least_before)) or (limit_falls and state.total > limit) then
  publish('news', nil, redis.call('ZCARD', queue), least or 0)
end

local _, ends = first_but(sid, sessions)
if now < state.grace then
  ends = math.min(ends or state.grace, state.grace)
end
local soonest = ends and math.max(0, ends - now) or -1

if lease == 0 or is_lost then
  return {is_lost and 0 or 1, state.epoch, granted, granted, 0, 0, 0, state.total, alive, state.requests, soonest}
end
own = record_of(sid)
local waiting, least_of_others = others(sid, own)
return {1, state.epoch, own.granted, own.returned, own.fence, waiting, least_of_others, state.total, alive,
  state.requests, soonest}
