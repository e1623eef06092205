-- Claim due jobs: mark each as in progress under this claim's token and count the try.
--
-- The in-progress key is the lease: arq's workers respect it while it exists, and its short time to
-- live gives the job back when its owner dies. Jobs in progress stay in the queue, so they are
-- stepped over here, a page at a time: they cannot block what stands behind them.
--
-- ARGV: limit, token, lease (ms), now (ms), token of a claim whose answer was lost ('': none),
--       key of ids that this worker's kind does not know, most ids to look at, server's time (ms)
--       after which this claim comes too late ('': never), queue...
-- Returns {waiting, next score or false, jobs, server's time (ms)}, `waiting` -1 where it came too
--         late and took nothing; a job is
--         {id, queue's number, score, tries, payload or false, score of its abort or false, crashes}
local limit, token, lease, now = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local lost, unknown, look_max = ARGV[5], ARGV[6], tonumber(ARGV[7])
local time = redis.call('TIME')
local server_now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[8] ~= '' and server_now > tonumber(ARGV[8]) then
  return {-1, false, {}, server_now}
end
local has_unknown = redis.call('EXISTS', unknown) == 1
local has_aborts = redis.call('EXISTS', 'arq:abort') == 1
local jobs, payload_keys, waiting, next_score = {}, {}, 0, false

local function claim(id, score, number, held)
  redis.call('SET', 'arq:in-progress:' .. id, token, 'PX', lease)
  local tries = 1
  if held then
    tries = tonumber(redis.call('GET', 'arq:retry:' .. id) or 1)
  elseif not redis.call('SET', 'arq:retry:' .. id, '1', 'EX', 88400, 'NX') then
    tries = redis.call('INCR', 'arq:retry:' .. id)
    redis.call('EXPIRE', 'arq:retry:' .. id, 88400)
  end
  local crashes = 0
  if tries > 1 then
    -- Whoever puts a job back leaves a mark; without one its last worker died with it.
    local marked = redis.call('DEL', 'worker-runtime:again:' .. id) == 1
    if marked or held then
      crashes = tonumber(redis.call('GET', 'worker-runtime:crashes:' .. id) or 0)
    else
      crashes = redis.call('INCR', 'worker-runtime:crashes:' .. id)
      redis.call('EXPIRE', 'worker-runtime:crashes:' .. id, 88400)
    end
  end
  local aborted = has_aborts and redis.call('ZSCORE', 'arq:abort', id)
  payload_keys[#payload_keys + 1] = 'arq:job:' .. id
  jobs[#jobs + 1] = {id, number, score, tries, false, aborted, crashes}
end

for number = 9, #ARGV do
  local queue, offset = ARGV[number], 0
  waiting = waiting + redis.call('ZCARD', queue)
  while #jobs < limit and offset < look_max do
    local page = 500
    local due = redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'WITHSCORES', 'LIMIT', offset, page)
    local keys = {}
    for i = 1, #due, 2 do
      keys[#keys + 1] = 'arq:in-progress:' .. due[i]
    end
    if #keys == 0 then
      break
    end
    local holders = redis.call('MGET', unpack(keys))
    for i = 1, #holders do
      if #jobs >= limit then
        break
      end
      local id, holder = due[2 * i - 1], holders[i]
      local held = lost ~= '' and holder == lost
      if not holder or held then
        if not (has_unknown and redis.call('SISMEMBER', unknown, id) == 1) then
          claim(id, due[2 * i], number - 8, held)
        end
      end
    end
    offset = offset + #keys
    if #keys < page then
      break
    end
  end
  if #jobs < limit then
    -- Written in the same step that found nothing, so that no enqueue falls in between.
    redis.call('SET', 'worker-runtime:idle:' .. queue, '1', 'PX', 60000)
    local later = redis.call('ZRANGEBYSCORE', queue, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if later[2] and (not next_score or tonumber(later[2]) < tonumber(next_score)) then
      next_score = later[2]
    end
  end
end
if #jobs > 0 then
  local payloads = redis.call('MGET', unpack(payload_keys))
  for i = 1, #jobs do
    jobs[i][5] = payloads[i]
  end
end
return {waiting, next_score, jobs, server_now}
