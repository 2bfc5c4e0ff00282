# Someone wants to learn a skill and keeps trying.
cast: solo
lesson: [you have to try again and again|everyone falls before they can run|practice makes things easy|you should never give up]

<home> {Hero.he} wanted to learn how to {skill}.
<home> All {hero.his} friends could {skill}. Only {hero} could not.
<daystart>, {hero.first} saw {friend.intro} {skill.ing}. "I want to {skill} too!" said {hero}.
{Hero.full} had a dream. {Hero.he} wanted to {skill}. [<trait>|]
<here> There {hero.he} saw {friend.intro} {skill.ing}. "[That looks fun|I want to try it|I want to do that too]!" {hero.he} said.

{Hero.he} tried [it right away|for the first time|very hard]. But {hero.he} {skill.fails}. "[Ouch|Oh no|Oh dear]!" {hero.he} said.
The first time, {hero.he} {skill.fails}. The second time, {hero.he} {skill.fails} again.
"It [looks|must be] easy," {hero} said. But it was not easy. {Hero.he} {skill.fails}.
{Hero.he} went {place.to} to try it. {Hero.he} tried once. {Hero.he} tried twice. But {hero.he} {skill.fails}.

Some [laughed|of the others laughed]. {Hero} was <sad>. "[I will never learn it|I can't do it|It is too hard for me]," {hero.he} said.
"I can't do it!" [cried|said] {hero}. {Hero.he} [sat down {spot}|wanted to give up|stamped {hero.his} foot].
{Hero} was [angry|<sad>]. {Hero.he} [went home|sat down {spot}|did not want to try again].

--
{Guide.first} [sat down with {hero.him}|saw {hero.him}|came by]. "[Nobody can do it the first time|Even I {skill.fails} when I was young|Every mistake teaches you something]," said {guide} <softly>. "[Try again|Do not give up|Let me show you]."
"[I will show you|I can help you|Let me help]," said {guide.first}. "[Go slowly|First look, then try|Do not hurry]."
Then {guide.first} came. "Why are you sad?" {guide.he} asked. "I can't {skill}," said {hero}. "Not yet," said {guide}. "[But you will|Try a little every day|You only need time]."

So {hero} tried again. {Hero.he} tried in the morning. {Hero.he} tried in the evening. [Every day, it got a little better|It was still hard, but {hero.he} did not stop].
{Hero} [listened|nodded|wiped {hero.his} eyes]. {Hero.he} tried again and again. [Sometimes {hero.he} {skill.fails}, but {hero.he} kept going|Day by day, it got easier].
Every day, {hero} [tried again|went {place2.to} to practice|worked hard]. {Guide} [helped {hero.him}|watched and smiled|cheered for {hero.him}].

[And then|At last|One week later|Then one day], it [worked|happened]! {Hero} {skill.past} all by {hero.himself}.
[Then one day|One morning|At last], {hero} {skill.past} without any help. "[Look|Look at me|I can do it|I did it]!" {hero.he} shouted.
[At last|After many days|In the end], {hero} could {skill}. "[Hooray|I can do it|I did it]!" {hero.he} cried.

Everyone [clapped|cheered|was proud of {hero.him}]. {Hero} was <happy>.
"I am so proud of you," said {guide}. {Hero} [smiled from ear to ear|was <happy>|hugged {guide.him}].
{Guide} [clapped|smiled|laughed]. "[You see|I knew it|You did not give up]," {guide.he} said.

?
<moral>
<moral>
<moral>
The next day, {hero} taught {friend2.intro} how to {skill}.
Now {hero} wanted to learn how to {skill2}.
