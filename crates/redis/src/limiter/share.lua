-- Applies one message of a limiter scope: corrections, bounds, a pause, and a block of all limits or none.
-- KEYS 1 state (hash), 2 applied messages (zset: id -> 2 x the time until which it is kept, + 1 if refused),
--      3 processes (zset: process -> last seen).  Times are microseconds.
-- ARGV 1 id, 2 process ('' without settings), 3 pause or '', 4 longest wait or '' without a block, 5 work of
--      the first request, 6 n, then n x (name, cost, need, credit, ceiling or ''), then with settings
--      n x (configured, hint, learned, burst, start), each '' if unknown.
-- Names: m<i> per minute, r<i> rolling day, d<i>:<second> day that begins at this second.
-- Answer: outcome (0 refused, 1 granted, 2 applied, 3 no state), wait, pause, epoch, processes, quantum, then
--      n x (level in thousandths, limit, smallest configured limit, time since the bucket was full).
local call, unpack = redis.call, unpack or table.unpack
local floor, max, min = math.floor, math.max, math.min
local KEPT, STALE, FORGOTTEN, FLOOR, JUMP, FADE = 10000000, 30000000, 600000000, 300000000, 2000000, 30000000
local DAY, QUARTER = 86400000000, 900000000
local t = call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local n, has_settings = tonumber(ARGV[6]), ARGV[2] ~= ''
local fields = {'ts', 'epoch', 'pause', 'n', 'q', 'qt'}
for i = 1, n do
  local name = ARGV[2 + i * 5]
  for kind in string.gmatch('lekf', '.') do fields[#fields + 1] = kind .. name end
end
local st = call('HMGET', KEYS[1], unpack(fields))
if not st[2] and not has_settings then return {3} end
local function text(x) return string.format('%.17g', x) end
local function int(x) return string.format('%.0f', x) end
local known = call('ZSCORE', KEYS[2], ARGV[1])
local ts, pause, epoch = tonumber(st[1]) or now, tonumber(st[3]) or 0, st[2] or int(now)
local processes, q, qt = tonumber(st[4]) or 0, tonumber(st[5]) or 0, tonumber(st[6]) or now
-- The clock went back, as after a failover: time goes on from here. A small step back neither refills twice nor
-- loses a refill.
if ts - now > JUMP then pause, qt, ts = pause - (ts - now), min(qt, now), now end
local dt = max(0, now - ts)
local set = {'ts', int(ts + dt), 'epoch', epoch}
local function put(field, value) set[#set + 1], set[#set + 2] = field, value end
if has_settings then
  -- With many processes, a busy one has a message about once a minute.
  call('ZADD', KEYS[3], int(now), ARGV[2])
  call('ZREMRANGEBYSCORE', KEYS[3], '-inf', int(now - 90000000))
  call('ZREMRANGEBYSCORE', KEYS[3], int(now + 60000000), '+inf')
  call('PEXPIRE', KEYS[3], 120000)
  processes = call('ZCARD', KEYS[3])
  put('n', processes)
end
if ARGV[3] ~= '' and not known then pause = max(pause, now + tonumber(ARGV[3])) end
local wait, ttl = max(0, pause - now), 600000
local may, limits = true, {}
for i = 1, n do
  local a, s = 2 + i * 5, 2 + i * 4
  local name, cost, need, credit, ceiling = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local l, e, k = tonumber(st[s + 1]), tonumber(st[s + 2]), tonumber(st[s + 3])
  local kind, old, start, smallest = string.sub(name, 1, 1), e, nil, 0
  if has_settings then
    local b = 6 + n * 5 + (i - 1) * 5
    local own, hint, learned, burst = tonumber(ARGV[b + 1]), tonumber(ARGV[b + 2]), tonumber(ARGV[b + 3]), tonumber(ARGV[b + 4])
    start = tonumber(ARGV[b + 5])
    local f = call('HMGET', KEYS[1], 'c' .. name, 'ct' .. name, 'h' .. name, 'ht' .. name, 'kt' .. name)
    local c, ct, h, ht, kt = tonumber(f[1]), tonumber(f[2]) or 0, tonumber(f[3]), tonumber(f[4]) or 0, tonumber(f[5]) or 0
    -- The smallest configured limit and burst hold while a process has them.
    if own and (not c or own <= c or now - ct > STALE) then c = own; put('c' .. name, own); put('ct' .. name, int(now)) end
    if learned then h, ht = learned, now; put('h' .. name, learned); put('ht' .. name, int(now)) end
    if kind == 'm' and (not k or burst <= k or now - kt > STALE) then k = burst; put('k' .. name, int(burst)); put('kt' .. name, int(now)) end
    if h and now - ht > FORGOTTEN then h = nil end
    e = h or hint or e
    if c then e, smallest = min(h or c, c), c end
    if e then put('e' .. name, e) end
  end
  local limit = {name = name, kind = kind, cost = cost, e = e, smallest = smallest, full = tonumber(st[s + 4])}
  if e and kind == 'm' then
    local rate = e / 60000000
    local cap, least = max(1, rate * k), -FLOOR * rate
    local is_new = not l
    l = min(cap, (l or start or cap) + (old or e) / 60000000 * dt)
    if not known and credit ~= 0 then
      local new = min(cap, l + credit)
      l = credit < 0 and max(new, min(l, least)) or new
    end
    if is_new or l >= cap then limit.full = ts + dt; put('f' .. name, int(ts + dt)) end
    if not known and ceiling then l = max(min(l, ceiling), min(l, least)) end
    local missing = min(need, cap) - l
    if missing > 0 then wait = max(wait, missing / rate) end
    ttl = max(ttl, 2 * k / 1000)
    limit.l = l
  elseif e then
    -- A day: l is the usage, k the current day, or the oldest quarter of an hour that counts.
    ttl = max(ttl, 93600000)
    l = l or (start and max(0, e - start)) or 0
    local renewed
    if kind == 'd' then
      local into = now - tonumber(string.match(name, ':(%d+)')) * 1000000
      local day = floor(into / DAY)
      if k ~= day then
        if k then l = 0 end
        k = day
      end
      renewed = (day + 1) * DAY - into
    else
      local quarter = floor(now / QUARTER)
      limit.quarter = quarter
      if not k or k > quarter then k = quarter end
      while k <= quarter - 97 do
        local gone = call('HGET', KEYS[1], 'u' .. name .. ':' .. int(k))
        if gone then
          l = l - tonumber(gone)
          call('HDEL', KEYS[1], 'u' .. name .. ':' .. int(k))
        end
        k = k + 1
      end
    end
    limit.change = 0
    if not known then
      limit.change = -credit
      if ceiling and e - l + credit > ceiling then limit.change = e - ceiling - l end
    end
    l = l + limit.change
    local missing = l + min(cost, e) - e
    if missing > 0 and cost > 0 then
      may = false
      if kind == 'r' then
        local freed, at = 0, k
        while at < limit.quarter and freed < missing do
          freed = freed + (tonumber(call('HGET', KEYS[1], 'u' .. name .. ':' .. int(at))) or 0)
          at = at + 1
        end
        renewed = at * QUARTER + DAY - now
      end
      wait = max(wait, renewed)
    end
    put('k' .. name, int(k))
    limit.l = l
  end
  limits[i] = limit
end
local outcome = 2
if known then
  local score = tonumber(known)
  outcome = ARGV[4] == '' and 2 or 1 - score % 2
  wait = outcome == 1 and max(0, floor(score / 2) - KEPT - now, pause - now) or wait
elseif ARGV[4] ~= '' then
  outcome = (may and wait <= tonumber(ARGV[4])) and 1 or 0
  local work = tonumber(ARGV[5])
  q = q * max(0, 1 - (now - qt) / FADE)
  if work >= q then q = work end
  put('q', text(q))
  put('qt', int(now))
end
local answer = {outcome, math.ceil(wait), math.ceil(max(0, pause - now)), floor(tonumber(epoch)), processes, floor(q)}
for _, limit in ipairs(limits) do
  local l, left = limit.l, 0
  if l then
    local cost = (outcome == 1 and not known) and limit.cost or 0
    if limit.kind == 'm' then
      l = l - cost
      left = l
    else
      l = l + cost
      left = limit.e - l
      local change = limit.change + cost
      if limit.kind == 'r' and change ~= 0 then
        call('HINCRBYFLOAT', KEYS[1], 'u' .. limit.name .. ':' .. int(limit.quarter), text(change))
      end
    end
    put('l' .. limit.name, text(l))
  end
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = floor(left * 1000), floor(limit.e or 0), floor(limit.smallest)
  answer[#answer + 1] = math.ceil(max(0, ts + dt - (limit.full or ts + dt)))
end
put('pause', int(pause))
call('HSET', KEYS[1], unpack(set))
-- Settings come every five seconds, and the state exists before any other message.
if has_settings or pause > now or wait > 60000000 then
  call('PEXPIRE', KEYS[1], int(max(ttl, (pause - now) / 1000 + 60000, wait / 1000 + 60000)))
end
if not known then
  if has_settings or now % 8 == 0 then
    local dead = call('ZRANGEBYSCORE', KEYS[2], '-inf', int(2 * now), 'LIMIT', 0, 64)
    if #dead > 0 then call('ZREM', KEYS[2], unpack(dead)) end
  end
  local at = outcome == 1 and now + math.ceil(wait) or now
  call('ZADD', KEYS[2], int(2 * (at + KEPT) + (outcome == 0 and 1 or 0)), ARGV[1])
  call('PEXPIRE', KEYS[2], int((at - now + KEPT) / 1000 + 60000))
end
return answer
