-- Accept new jobs, all or none. An id that has a job or a kept result is no new job.
--
-- ARGV, six for each job: id, queue, score (ms), job's time to live (ms), payload, capacity (0: any)
-- Returns, for each job: 1 accepted, 0 known already; or {-1, n} for the n-th whose queue is full.
local added = {}
for i = 1, #ARGV, 6 do
  local queue, capacity = ARGV[i + 1], tonumber(ARGV[i + 5])
  if capacity > 0 then
    local count = added[queue] or redis.call('ZCARD', queue)
    if count >= capacity then
      return {-1, (i + 5) / 6}
    end
    added[queue] = count + 1
  end
end
local answer, told = {}, {}
for i = 1, #ARGV, 6 do
  local id, queue = ARGV[i], ARGV[i + 1]
  if redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
    answer[#answer + 1] = 0
  else
    redis.call('PSETEX', 'arq:job:' .. id, ARGV[i + 3], ARGV[i + 4])
    redis.call('ZADD', queue, ARGV[i + 2], id)
    answer[#answer + 1] = 1
    if not told[queue] then
      told[queue] = true
      if redis.call('DEL', 'worker-runtime:idle:' .. queue) == 1 then
        redis.call('PUBLISH', 'worker-runtime:wake:' .. queue, '')
      end
    end
  end
end
return answer
