# A closed box is found; what is inside?
cast: any
lesson: [it is good to be curious|the best treasure is a good friend|a secret is more fun when you share it|what is lost should go back to its owner]

<here> {Hero.he} saw something {spot}. It was {find.a}! @solo
<here> {Hero.he} [was digging|was looking for stones|tripped over something]. There was {find.a} {spot}. @solo
<duo-here> Suddenly, {hero} saw something {spot}. "Look!" {hero.he} said. It was {find.a}. @duo
<duo-here> They [looked|played] {spot}. There they found {find.a}! @duo

"[What is in it|What could be inside|Who does it belong to]?" asked {hero}. {Friend} [did not know|shook the {find.bare}|came closer]. It was [very heavy|light|closed tight|old and dusty]. @duo
"[What is inside|What can it be|Is it a treasure]?" said {hero}. {Hero.he} tried to open it, but it was [closed tight|locked|stuck]. @solo
The {find.bare} was [old|heavy|covered with mud|closed with a rope]. {Hero} was very curious.

"Maybe there is [gold|a dragon|a monster|a cake] inside," said {friend}. They both [laughed|held their breath]. @duo
{Hero} [shook|turned|knocked on] the {find.bare}. [Something moved inside|It made a soft sound|There was no sound].
{Hero.he} asked {guide.first} for help. "[Look for the key {spot2}|Push here and pull there|Try it with a stick]," said {guide}.
{Hero} looked for something to open it. {Spot2}, there was [a little key|a strong stick|a rusty nail].

--
[Slowly|With a loud creak|At last|Click], the {find.bare} opened. Inside, {hero} saw {find.in}!
They opened it together. [One, two, three|Creak|Click]! Inside, they found {find.in}! @duo
{Hero} opened it [slowly|with care]. Inside, {hero.he} found {find.in}!

"[Wow|How wonderful|It is beautiful]!" said {hero}. "But who lost it?" Then {stranger.intro} came along. "It is mine," said {stranger}. "I have looked for it [for days|for a long time|everywhere]." @duo +give
"[Wow|Oh my|I can't believe it]!" said {hero} <loudly>. Then {hero.he} saw a name on it. It was the name of {stranger.intro}. {Hero} [ran|went] to {stranger} at once. +give
{Hero} was [amazed|<happy>|surprised]. {Hero.he} took it home and showed it to {grown}. "[That is a real treasure!|Where did you find that?]" said {grown}. @solo +keep
{Hero} and {friend} looked at each other. "[It is our secret|We will share it|This is the best day ever]!" they said. @duo +keep

"Thank you for bringing it back," said {stranger}. "[You are very honest|I missed it so much|Most would have kept it]." {Stranger.he} gave {hero} {food.a}. @give
{Stranger} was <happy>. "[How can I thank you?|You are so kind!]" {stranger.he} said. Then {stranger.he} [told a story about it|shared {food.a} with {hero}|gave {hero} a big hug]. @give
They [showed it to all their friends|put it in a safe place|played with it all day]. [Everyone was amazed|It was great fun|They took turns]. @keep duo
{Hero} put it [next to {hero.his} bed|in a safe place|on the shelf]. [Every night, {hero.he} looked at it and smiled|Everyone came to see it]. @keep solo

?
<moral>
<moral>
<moral>
And the {find.bare}? {Hero} still has it today.
<bedtime>
