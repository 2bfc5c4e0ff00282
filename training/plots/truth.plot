# Something breaks at home and the truth is told.
cast: solo
lesson: [it is always best to tell the truth|a true word makes the heart light|it is brave to tell the truth|everyone makes mistakes]

<home> <oneday>, {hero} was playing with {toy.a} in the house. {Hero.his} {grown.bare} had said, "[Be careful|Do not play near the {fragile.bare}|Please play outside]."
<home> <oneday>, {hero} was [dancing|running|jumping] in the house. It was so much fun!
It was a [rainy|cold|gray] day. {Hero.first} was playing [inside|at home|in the house] with {toy.a}.

[Suddenly|Then], there was a loud crash. The {fragile} was broken!
{Hero.he} [turned around too fast|did not look|jumped too high]. Crash! {Hero.he} knocked over the {fragile}. It broke into [two|three|many] pieces.
[Bump|Oops]! {Hero.he} [hit|bumped into] the table. The {fragile} fell down and broke.

"Oh no!" said {hero}. {Grown} loved that {fragile.bare}. {Hero.he} was <sad>. 
{Hero} was [scared|afraid|worried]. {Hero.he} hid the pieces [under the bed|behind the door|in a box|under a blanket].
"[What shall I do|How can I fix it|What will happen now]?" thought {hero}. {Hero.he} [hid under the bed|began to cry|wanted to run away].

--
Soon {grown} came [in|home]. "[What was that noise|Where is my {fragile.bare}|What happened here]?" {grown.he} asked. 
Then {grown} came home. "Do you know where my {fragile.bare} is?" {grown.he} asked. 
At dinner, {hero} could not eat. "What is wrong?" asked {grown}. "[You look so sad.|Are you sick?|You did not touch your soup.]"

{Hero} wanted to say, "It was the [wind|cat next door]." But that was not true. {Hero.he} took a deep breath.
{Hero} looked at the floor. {Hero.his} heart beat fast.
First, {hero} said nothing. [But the secret felt heavy|But {hero.his} tummy felt funny]. Then {hero.he} began to speak.

"I broke it," said {hero} <quiet>. "[I am so sorry|It was an accident|I did not listen to you]."
"It was me," said {hero}. "I broke the {fragile.bare}. [I am very sorry|Please don't be angry|I wanted to hide it]."
{Hero} told {grown} everything. "I am sorry," {hero.he} said.

{Grown} [sat down|was quiet for a moment|looked at the pieces]. Then {grown.he} [smiled|gave {hero.him} a hug]. "Thank you for telling the truth," {grown.he} said. "[That was brave|A {fragile.bare} can be fixed|I am proud of you]."
"[I am a little sad|I liked that {fragile.bare}]," said {grown}. "But I am glad that you told me. [That was not easy|The truth is worth more than a {fragile.bare}]."
{Grown} was not angry. "[Accidents happen|Everyone makes mistakes|I broke one too when I was little]," {grown.he} said. "You told the truth, and that is what counts."

They [fixed it with glue|picked up the pieces|cleaned up] together. [{Hero} felt light and happy again|{Hero} was careful from then on|It did not look new, but they liked it even more].
{Hero} felt much better. {Hero.he} helped {grown} [clean up|fix it|make dinner].

?
<moral>
<moral>
<moral>
<bedtime>
